"""What cNMF itself finds in planted counts: the reference of `tests/unit/test_consensus.py`.

Run, the first in this environment, the second in one with cNMF (`pip install cnmf`, 1.7.1), the third here:

    python benchmarks/cnmf_reference.py counts FOLDER
    python benchmarks/cnmf_reference.py run FOLDER      # writes FOLDER/cnmf_consensus.npz
    python benchmarks/cnmf_reference.py compare FOLDER

The counts are those of `tests/unit/planted.py`: 13 cell types and a donor's program in 420 cells x 170 genes;
20 seeds at rank 14, density threshold 0.5. `cnmf_consensus.npz` of the smaller five-program case is what the
test keeps (`--small`).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

SEEDS = 20
TESTS = Path(__file__).parents[1] / "tests" / "unit"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("step", choices=["counts", "run", "compare"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--small", action="store_true", help="five programs in 240 cells")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    {"counts": write_counts, "run": run_cnmf, "compare": compare}[options.step](options.folder, options.small)


def planted(small: bool):
    sys.path.insert(0, str(TESTS))
    from planted import Planted

    return Planted.draw(n_cells=240) if small else Planted.draw(n_types=13, n_cells=420, depth=900)


def write_counts(folder: Path, small: bool) -> None:
    """Counts with names, as the .h5ad that cNMF reads."""
    import anndata
    from scipy import sparse

    given = planted(small)
    var = given.var.set_axis([f"GENE{j}" for j in range(len(given.var))])[[]]
    adata = anndata.AnnData(sparse.csr_matrix(given.counts), obs=given.obs[[]], var=var)
    adata.write_h5ad(folder / "counts.h5ad")
    np.save(folder / "programs.npy", given.programs)


def run_cnmf(folder: Path, small: bool) -> None:
    """Prepare, factorise, combine, consensus, as its tutorial does; all genes are its variable genes."""
    import matplotlib

    matplotlib.use("Agg")
    import anndata
    import pandas as pd
    from cnmf import cNMF, load_df_from_npz

    counts = anndata.read_h5ad(folder / "counts.h5ad")
    k, p = (5 if small else 14), counts.n_vars
    run = cNMF(output_dir=str(folder), name="cnmf")
    run.prepare(str(folder / "counts.h5ad"), components=[k], n_iter=SEEDS, seed=14, num_highvar_genes=p)
    run.factorize()
    run.combine()
    # the usages that its scores and spectra are made with are kept as they are
    run.consensus(
        k, density_threshold=0.5, show_clustering=False, close_clustergram_fig=True, refit_usage=False
    )
    files = {key: run.paths[key] for key in run.paths}
    merged = load_df_from_npz(files["merged_spectra"] % k)
    named = {
        "density": files["local_density_cache"] % k,
        "spectra": files["consensus_spectra"] % (k, "0_5"),
        "usages": files["consensus_usages"] % (k, "0_5"),
        "scores": files["gene_spectra_score"] % (k, "0_5"),
        "tpm": files["gene_spectra_tpm"] % (k, "0_5"),
    }
    found = {name: load_df_from_npz(path) for name, path in named.items()}
    stats = run.consensus(k, skip_density_and_return_after_stats=True, show_clustering=False)
    arrays = {name: table.to_numpy(np.float32) for name, table in found.items()}
    np.savez_compressed(
        folder / "cnmf_consensus.npz",
        merged=merged.to_numpy(np.float32),
        genes=np.array([int(name.removeprefix("GENE")) for name in merged.columns]),
        silhouette=np.float64(pd.Series(np.ravel(stats.loc["silhouette"])).iloc[0]),
        **arrays,
    )


def compare(folder: Path, small: bool) -> None:
    """Our consensus of our fits, and of cNMF's own fits, against its consensus."""
    from scipy import sparse

    from nmfbench.data.filtered import normalise_block
    from nmfbench.factors.consensus import find_consensus
    from nmfbench.metrics.matching import match_by_cosine
    from nmfbench.models import BaseNMF

    given, kept = planted(small), np.load(folder / "cnmf_consensus.npz")
    k, genes = kept["spectra"].shape[0], kept["genes"]
    theirs = kept["spectra"].T
    of_theirs = find_consensus([W.T for W in kept["merged"].reshape(SEEDS, k, -1)])
    X = normalise_block(sparse.csr_matrix(given.counts))
    fits = [
        BaseNMF(k, init="random", max_iter=200, random_state=seed).fit(X).components_.T
        for seed in range(SEEDS)
    ]
    ours = find_consensus(fits).programs
    sd = given.counts[:, genes].std(axis=0)  # cNMF factorises counts over their standard deviation
    print("pairs\tsmallest cosine\tmean cosine")
    for name, one, other in (
        ("our consensus of cNMF's fits with cNMF's consensus", of_theirs.programs, theirs),
        ("our consensus of our fits with cNMF's consensus (TPM)", ours[genes], kept["tpm"].T[genes]),
        ("our consensus of our fits with the planted programs", ours, given.programs.T),
        (
            "cNMF's consensus (times sd) with the planted programs",
            theirs * sd[:, None],
            given.programs.T[genes],
        ),
    ):
        cosine = match_by_cosine(one, other)[1]["cosine"]
        print(f"{name}\t{cosine.min():.4f}\t{cosine.mean():.4f}")
    print(f"stability: ours of cNMF's fits {of_theirs.stability:.4f}, cNMF's {float(kept['silhouette']):.4f}")


if __name__ == "__main__":
    main()
