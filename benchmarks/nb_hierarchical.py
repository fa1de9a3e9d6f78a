"""Speed and accuracy of the hierarchical negative binomial model, beside dense code and PyMC.

Run: python benchmarks/nb_hierarchical.py likelihood
     python benchmarks/nb_hierarchical.py published [--h5ad counts.h5ad] [--steps 300000]
                                          [--pymc PYTHON --pymc-steps 300000]
     python benchmarks/nb_hierarchical.py recovery

`likelihood`: the split likelihood against a dense one in float64, at 300 x 100 and at 20,000 x 3,000
with 16 % nonzeros. `published`: 1,000 x 500, 10 % of the entries held out, priors and offsets of
`preset: published`: CPU seconds until the held-out density is within 0.001 nats of where the exact engine
ends, and what `entries` at the published settings (and PyMC's ADVI in the interpreter that --pymc names)
comes to. `recovery`: simulated effects against fitted ones. Seconds are CPU seconds of one thread. The size
of a merged atlas: nb_hierarchical_atlas.py.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import scipy.sparse as sp

WITHIN = 1e-3


def simulate(n: int, p: int, density: float, seed: int = 0, block: int = 2000):
    """Counts of the model itself, thinned to about `density`: (csr, a, b, log_alpha)."""
    rng = np.random.default_rng(seed)
    a, b, log_alpha = rng.normal(0, 1.6, p), rng.normal(0, 0.5, n), rng.normal(0.7, 0.7, p)
    alpha, sample = np.exp(log_alpha), np.exp(a + b[:500, None])
    low, high = -20.0, 10.0
    for _ in range(50):
        shift = 0.5 * (low + high)
        share = 1 - ((1 + sample * np.exp(shift) / alpha) ** -alpha).mean()
        low, high = (shift, high) if share < density else (low, shift)
    a = (a + shift).astype(np.float32)
    data, indices, lengths = [], [], [0]
    for start in range(0, n, block):
        mu = np.exp(a + b[start : start + block, None].astype(np.float32))
        rate = rng.standard_gamma(np.broadcast_to(alpha.astype(np.float32), mu.shape), dtype=np.float32)
        rate *= mu / alpha.astype(np.float32)
        part = sp.csr_matrix(rng.poisson(rate).astype(np.float32))
        data.append(part.data)
        indices.append(part.indices)
        lengths += list(np.diff(part.indptr))
    indptr = np.cumsum(lengths)
    indptr = indptr.astype(np.int32 if indptr[-1] < 2**31 else np.int64)
    joined = sp.csr_matrix((np.concatenate(data), np.concatenate(indices), indptr), shape=(n, p))
    joined.has_canonical_format = True
    return joined, a.astype(np.float64), b, log_alpha


def dense(Y, t, c, log_alpha):
    """The log-likelihood as a textbook has it, and its gradients."""
    import torch

    given = [torch.tensor(x, requires_grad=True) for x in (t, c, log_alpha)]
    total = 0.0
    for start in range(0, len(t), 500):
        y = torch.from_numpy(Y[start : start + 500].toarray().astype(np.float64))
        alpha = torch.exp(given[2])
        eta = given[0][start : start + 500, None] + given[1][0]
        value = torch.lgamma(y + alpha) - torch.lgamma(alpha) - torch.lgamma(y + 1) + y * eta
        value = (value - (y + alpha) * torch.nn.functional.softplus(eta, threshold=50)).sum()
        value.backward()
        total += float(value.detach())
    return total, [x.grad.numpy() for x in given]


def likelihood(_: argparse.Namespace) -> None:
    """Agreement and speed of the likelihood."""
    from nmfbench.models.nb_hierarchical.likelihood import SplitLikelihood

    print("| cells x genes | nonzeros | dense (s) | split (s) | ratio | value | gradients |")
    print("|---|---|---|---|---|---|---|")
    for n, p, density in ((300, 100, 0.5), (20_000, 3_000, 0.16)):
        Y, a, b, log_alpha = simulate(n, p, density)
        split = SplitLikelihood(Y)
        c = (a - log_alpha)[None]
        split.evaluate(b, c, log_alpha)
        ours, mine = timed(lambda: split.evaluate(b, c, log_alpha))  # noqa: B023
        theirs, (value, gradients) = timed(lambda: dense(Y, b, c, log_alpha))  # noqa: B023
        error = max(
            np.abs(x - y).max() / np.abs(y).max()
            for x, y in zip((mine.t, mine.c, mine.log_alpha), gradients, strict=True)
        )
        print(
            f"| {n:,} x {p:,} | {Y.nnz:,} | {theirs:.3f} | {ours:.4f} | {theirs / ours:.0f} | "
            f"{abs(mine.value / value - 1):.0e} | {error:.0e} |"
        )


def published(args: argparse.Namespace) -> None:
    """The published size."""
    import torch

    from nmfbench.models.held_out_entries import values_at
    from nmfbench.models.nb_hierarchical.build import build_engine, build_problem
    from nmfbench.models.nb_hierarchical.estimator import NBHierarchical
    from nmfbench.models.nb_hierarchical.means import Means
    from nmfbench.models.nb_hierarchical.preparation import prepare
    from nmfbench.models.nb_hierarchical.settings import resolved

    X = panel(args.h5ad)
    cpu = torch.device("cpu")
    ways = {"exact": {"engine": "exact", "start": "informed", "learning_rate": 0.05, "param": "auto"}}
    ways["entries"] = {}
    print("| engine | steps | CPU s | held-out log density | ELBO |")
    print("|---|---|---|---|---|")
    for turn in ("warm-up", "measured"):
        for way, more in ways.items():
            model = NBHierarchical(2, preset="published", mask_fraction=0.1, random_state=0, **more)
            settings = resolved(model)
            ready = prepare(X, settings, 0)
            rows, genes, y = values_at(ready.whole, ready.mask)
            started = time.process_time()
            problem = build_problem(ready, settings, 0, cpu)
            engine = build_engine(problem, ready, settings, False)

            def score():
                a, b, log_alpha, _ = engine.problem.family.unfolded(engine.loc)  # noqa: B023
                la = np.full(X.shape[1], log_alpha[0])
                c = (a + ready.length - la)[None]  # noqa: B023
                t = b + ready.size  # noqa: B023
                at = Means(t, c, la, np.zeros(len(t), np.int64))
                return float(at.log_density(y, rows, genes).mean())  # noqa: B023

            spent, path, step = time.process_time() - started, [], 0
            checks = [0, 10, 20, 50, 100, 200, 1000] if way == "exact" else [1000, 10_000, 30_000, 100_000]
            checks = [check for check in checks if way == "exact" or check < args.steps]
            checks += [] if way == "exact" else [args.steps]
            for check in checks if turn == "measured" else checks[:2]:
                started = time.process_time()
                engine.advance(check - step)
                spent, step = spent + time.process_time() - started, check
                fit, rest, _ = engine.problem.elbo(engine.loc, engine.log_sd, 8)
                path.append((check, spent, score(), fit + rest))
            if turn == "measured":
                for row in path:
                    print(f"| {way} | {row[0]:,} | {row[1]:.2f} | {row[2]:.4f} | {row[3]:,.1f} |")
            if turn == "measured" and way == "exact":
                near = next(row for row in path if abs(row[2] - path[-1][2]) < WITHIN)
                print(
                    f"\nexact: within {WITHIN} nats of its end after {near[1]:.2f} CPU s, {near[0]} steps\n",
                    flush=True,
                )
            elif turn == "measured":
                print(
                    f"\nexact, within {WITHIN} nats of its end ({near[2]:.4f}): {path[-1][1] / near[1]:.0f} "
                    f"times sooner than entries has made {path[-1][0]:,} steps ({path[-1][2]:.4f})\n",
                    flush=True,
                )
    if args.pymc:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "counts.npz"
            observed = ready.mask.toarray() == 0
            np.savez(file, Y=ready.whole.toarray(), observed=observed, size=ready.size, length=ready.length)
            command = [args.pymc, __file__, "pymc", "--file", str(file), "--steps", str(args.pymc_steps)]
            row = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            print(row, end="")
            spent, reached = (float(cell) for cell in row.split("|")[3:5])
            print(
                f"\nexact, within {WITHIN} nats of its end ({near[2]:.4f}): {spent / near[1]:.0f} times "
                f"sooner than PyMC's ADVI has made {args.pymc_steps:,} steps ({reached:.4f})"
            )


def pymc(args: argparse.Namespace) -> None:
    """ADVI of the same model and entries, at the published settings with both defects mended."""
    import pymc as pm
    import pytensor

    stored = np.load(args.file)
    Y, observed = stored["Y"], stored["observed"]
    rows, genes = np.nonzero(observed)
    y, offset = Y[rows, genes].astype("int32"), (stored["size"][:, None] + stored["length"])[rows, genes]
    n, p = Y.shape
    with pm.Model():
        batch = pm.Minibatch(y, rows, genes, offset, batch_size=128)
        mu_gene, sigma_gene = pm.Normal("mu_gene", 2, 1), pm.HalfNormal("sigma_gene", 1)
        mu_cell, sigma_cell = pm.Normal("mu_cell", 0, 1), pm.HalfNormal("sigma_cell", 1)
        z_gene, z_cell = pm.Normal("z_gene", 0, 1, shape=p), pm.Normal("z_cell", 0, 1, shape=n)
        alpha = pm.HalfCauchy("alpha", 2)
        log_mu = mu_gene + sigma_gene * z_gene[batch[2]] + mu_cell + sigma_cell * z_cell[batch[1]] + batch[3]
        pm.NegativeBinomial("y", mu=pm.math.exp(log_mu), alpha=alpha, observed=batch[0], total_size=len(y))
        advi = pm.ADVI(random_seed=0)
        advi.fit(10, progressbar=False)
        started = time.process_time()
        approx = advi.fit(args.steps, progressbar=False)
        spent = time.process_time() - started
    from scipy.stats import nbinom

    samples = approx.sample(500, random_seed=0, return_inferencedata=False)
    means = {key: np.asarray(samples[key]).mean(0) for key in samples.varnames}
    eta = means["mu_gene"] + means["sigma_gene"] * means["z_gene"] + means["mu_cell"]
    eta = eta + (means["sigma_cell"] * means["z_cell"])[:, None] + stored["size"][:, None] + stored["length"]
    mu, held = np.exp(eta), ~observed
    score = nbinom.logpmf(Y[held], means["alpha"], means["alpha"] / (means["alpha"] + mu[held])).mean()
    linker = "C" if pytensor.config.cxx else "Python"
    print(f"| PyMC {pm.__version__}, ADVI ({linker} linker) | {args.steps:,} | {spent:.1f} | {score:.4f} | |")


def recovery(_: argparse.Namespace) -> None:
    """Simulated effects against fitted ones."""
    from nmfbench.models.nb_hierarchical.estimator import NBHierarchical

    print("| cells x genes | CPU s | genes | cells | log alpha (mean count above 0.1) |")
    print("|---|---|---|---|---|")
    for n, p in ((300, 120), (8_000, 1_500)):
        Y, a, b, log_alpha = simulate(n, p, 0.3)
        Y = Y[np.diff(Y.indptr) > 0]
        kept = np.asarray(Y.mean(0)).ravel() > 0.1
        spent, model = timed(
            lambda: NBHierarchical(2, offset="none", draws=0, random_state=0, device="cpu").fit(Y)  # noqa: B023
        )
        found = ~np.isnan(model.gene_total_)
        cells = np.corrcoef(model.cell_effect_, b[: len(model.cell_effect_)])[0, 1]
        print(
            f"| {n:,} x {p:,} | {spent:.1f} | {np.corrcoef(model.gene_total_[found], a[found])[0, 1]:.4f} | "
            f"{cells:.4f} | {np.corrcoef(model.log_alpha_[kept], log_alpha[kept])[0, 1]:.3f} |"
        )


def panel(h5ad: str | None):
    """1,000 cells x 500 genes with counts, of a file or simulated."""
    if h5ad is None:
        X = simulate(1000, 500, 0.12)[0]
    else:
        import anndata

        adata, rng = anndata.read_h5ad(h5ad), np.random.default_rng(0)
        X = sp.csr_matrix(adata.X)[np.sort(rng.permutation(adata.n_obs)[:1000])]
        X = X[:, np.sort(rng.permutation(adata.n_vars)[:500])].astype(np.float32)
    return X[np.diff(X.indptr) > 0][:, np.asarray(X.sum(0)).ravel() > 3]


def timed(action):
    """CPU seconds of a call, and what it returns."""
    started = time.process_time()
    result = action()
    return time.process_time() - started, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["likelihood", "published", "recovery", "pymc"])
    parser.add_argument("--h5ad")
    parser.add_argument("--pymc", help="an interpreter that has PyMC")
    parser.add_argument("--steps", type=int, default=300_000, help="of entries at the published settings")
    parser.add_argument("--pymc-steps", type=int, default=300_000)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.what != "pymc":
        import torch

        torch.set_num_threads(1)
    globals()[args.what](args)


if __name__ == "__main__":
    sys.exit(main())
