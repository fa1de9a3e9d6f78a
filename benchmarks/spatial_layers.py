"""Do the factors show the layers of a tissue? PNMF with and without space, on whole and on thinned counts.

Give an .h5ad of spots with counts in X, ``obsm["spatial"]`` and a label of anatomical layers in obs:

    python benchmarks/spatial_layers.py stahl2016_mob_spatial.h5ad --label layer --out spatial.tsv

Each row of the table is one fit: F1 (macro, five folds, logistic regression of log factors), ARI (k-means
with as many clusters as layers), Moran's I (neighbouring spots, mean over factors), and F1 of spots that
were left out of the fit, from the factors that the processes predict for them. Coordinates alone stand
beside them, since layers are contiguous: what can be told from the position is no merit of the factors.

The lengthscale is chosen without labels: the processes are fitted with each of `--lengthscale` and with one
that is learned (from the largest of them), and the one with the highest ELBO is marked in column `chosen`.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score, f1_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from nmfbench.models.pnmf.estimator import PNMF
from nmfbench.models.pnmf.spatial.estimator import SpatialPNMF

SEEDS = (0, 1, 2)


def classifier():
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=3000))


def scores(log_factors: np.ndarray, labels: np.ndarray, xy: np.ndarray) -> dict[str, float]:
    """F1, ARI and Moran's I of log factors, each over three seeds where it has one."""
    f1, ari = [], []
    standard = StandardScaler().fit_transform(log_factors)
    for seed in SEEDS:
        folds = StratifiedKFold(5, shuffle=True, random_state=seed)
        found = cross_val_predict(classifier(), log_factors, labels, cv=folds)
        f1.append(f1_score(labels, found, average="macro"))
        clusters = KMeans(len(set(labels)), n_init=10, random_state=seed).fit_predict(standard)
        ari.append(adjusted_rand_score(labels, clusters))
    return {"F1": np.mean(f1), "ARI": np.mean(ari), "Moran": morans_i(log_factors, xy).mean()}


def morans_i(values: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Moran's I of every column; neighbours are spots nearer than one and a half times the usual spacing."""
    distance = np.linalg.norm(xy[:, None] - xy[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    near = distance < 1.5 * np.median(distance.min(axis=1))
    centred = values - values.mean(axis=0)
    return len(xy) / near.sum() * np.einsum("ik,ij,jk->k", centred, near, centred) / (centred**2).sum(axis=0)


def left_out(make, X, xy, labels) -> float:
    """F1 of the layers of spots that the fit has not seen, from their predicted factors."""
    found = np.empty(len(labels), dtype=object)
    for train, test in StratifiedKFold(5, shuffle=True, random_state=0).split(xy, labels):
        model = make().fit(X[train], coordinates=xy[train])
        rule = classifier().fit(model.log_factors_, labels[train])
        found[test] = rule.predict(model.predict_factors(xy[test])[0].numpy())
    return f1_score(labels, found.astype(str), average="macro")


def coordinates_alone(xy: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    f1, ari = [], []
    for seed in SEEDS:
        folds = StratifiedKFold(5, shuffle=True, random_state=seed)
        found = cross_val_predict(KNeighborsClassifier(5), xy, labels, cv=folds)
        f1.append(f1_score(labels, found, average="macro"))
        clusters = KMeans(len(set(labels)), n_init=10, random_state=seed).fit_predict(xy)
        ari.append(adjusted_rand_score(labels, clusters))
    return {"F1": np.mean(f1), "ARI": np.mean(ari), "F1 left out": np.mean(f1)}


def draw(path: str, xy: np.ndarray, labels: np.ndarray, plain: PNMF, smooth: SpatialPNMF, title: str) -> None:
    """The layers and the factors of both fits, the factors of the second in the order of the first's."""
    from nmfbench.figures import save
    from nmfbench.figures.spatial import spatial_figure
    from nmfbench.metrics.matching import factor_correlations, log_profiles, match_factors

    in_cells = factor_correlations(plain.log_factors_, smooth.log_factors_)
    in_genes = factor_correlations(*(log_profiles(model.components_.T) for model in (plain, smooth)))
    pairs = match_factors(in_cells, in_genes)[0].sort_values("factor")
    order = pairs["other_factor"].to_numpy(int) - 1
    layer = np.unique(labels, return_inverse=True)[1][:, None].astype(float)
    k = len(order)
    maps = np.hstack([layer, plain.embedding_, layer, smooth.embedding_[:, order]])
    names = ["layer", *(f"PNMF {j + 1}" for j in range(k)), "layer", *(f"in space {j + 1}" for j in range(k))]
    save(spatial_figure(xy, maps, names, title=title, columns=k + 1), [path])


def save_rows(rows: list[dict], path: str) -> None:
    pd.DataFrame(rows).to_csv(path, sep="\t", index=False, float_format="%.7g")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("h5ad")
    parser.add_argument("--label", default="layer")
    parser.add_argument("--drop", default="unannotated", help="a level of the label to leave out")
    parser.add_argument("--genes", type=int, default=3000, help="those with the most counts")
    parser.add_argument("--rank", type=int, default=6)
    parser.add_argument(
        "--keep", type=float, nargs="+", default=[1.0, 0.1, 0.02], help="shares of the counts"
    )
    parser.add_argument("--lengthscale", type=float, nargs="+", default=[1.0, 2.0, 4.0])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--figure", help="a PNG of the factors at the smallest share")
    parser.add_argument("--out", default="spatial_layers.tsv")
    options = parser.parse_args()
    adata = anndata.read_h5ad(options.h5ad)
    adata = adata[adata.obs[options.label] != options.drop]
    labels = adata.obs[options.label].astype(str).to_numpy()
    xy = np.asarray(adata.obsm["spatial"])
    counts = sparse.csr_matrix(adata.X).astype(np.int64)
    top = np.sort(np.argsort(-np.asarray(counts.sum(axis=0)).ravel())[: options.genes])
    counts = counts[:, top]
    rows = [{"model": "coordinates alone", **coordinates_alone(xy, labels)}]
    common = {"mode": "lower-bound", "exposure": "total", "max_iter": options.steps, "device": "cpu"}
    plain = None
    for share in options.keep:
        for seed in SEEDS if share < 1 else SEEDS[:1]:
            X = counts.astype(np.float32)
            if share < 1:
                X.data = np.random.default_rng(seed).binomial(counts.data, share).astype(np.float32)
                X.eliminate_zeros()
            about = {
                "kept": share,
                "seed": seed,
                "counts per spot": float(np.median(np.asarray(X.sum(axis=1)))),
            }
            best: tuple[dict, SpatialPNMF] | None = None
            lengths = options.lengthscale if seed == SEEDS[0] else []
            for length in [None, *lengths, "learned"]:
                learn = length == "learned"
                if length is None:
                    model = PNMF(options.rank, random_state=seed, **common)
                else:
                    start = max(options.lengthscale) if learn else length
                    space = {"lengthscale": start, "train_lengthscale": learn}
                    model = SpatialPNMF(options.rank, random_state=seed, **space, **common)
                started = time.process_time()
                model.fit(X, coordinates=xy)
                row = {
                    "model": type(model).__name__,
                    "lengthscale": None if length is None else model.lengthscale_,
                    "learned": learn,
                    **about,
                    **scores(model.log_factors_, labels, xy),
                }
                row |= {"elbo": model.elbo_, "steps": model.n_iter_, "converged": model.converged_}
                row["cpu seconds"] = time.process_time() - started
                rows.append(row)
                if length is None:
                    plain = model
                elif best is None or model.elbo_ > best[1].elbo_:
                    best = row, model
                print(row, flush=True)
                save_rows(rows, options.out)
            row, model = best
            row["chosen"] = True
            if seed == SEEDS[0] and share < 1:
                settings = model.get_params() | {
                    "lengthscale": model.lengthscale_,
                    "train_lengthscale": False,
                }
                row["F1 left out"] = left_out(lambda: SpatialPNMF(**settings), X, xy, labels)  # noqa: B023
                print(row, flush=True)
            save_rows(rows, options.out)
            if options.figure and seed == SEEDS[0] and share == min(options.keep):
                title = f"{share:.0%} of the counts, lengthscale {model.lengthscale_:.1f}"
                draw(options.figure, xy, labels, plain, model, title)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message="KMeans is known to have a memory leak")
    main()
