"""What an embedding of a model of counts is worth at a rank: as it is, as shares, as square roots of shares.

    python benchmarks/count_embeddings.py kang2018_pbmc_ifnb.h5ad --ranks 15 80 --seeds 0 1 2 --out table.tsv
    python benchmarks/count_embeddings.py ... --only "pnmf, exposure" "gamma, ARD"

Every line of `WAYS` is fitted to the counts of the most variable genes and scored after z-scoring, the
Bayesian models with all patterns and with those in use (`scored_patterns`): macro F1 by 15 nearest
neighbours (of the donor by a random forest too, with ``--forest``) in folds, NMI and ARI of Leiden clusters
(means of three seeds). Means over training seeds are printed; every fit goes to ``--out``.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

SIZES = {"exposure": "total"}
FIXED = {"learn_probs": "fixed"}  # p = 0.5
PNMF = {"mode": "lower-bound"}
WAYS: dict[str, tuple[str, dict]] = {
    "base_nmf": ("base_nmf", {}),
    "exponential": ("pyro_exponential", FIXED),
    "exponential, ARD": ("pyro_exponential", {**FIXED, "learn_rates": "pattern"}),
    "exponential, nndsvd": ("pyro_exponential", {**FIXED, "init": "nndsvd"}),
    "exponential, p by gene": ("pyro_exponential", {"learn_probs": "gene"}),
    "exponential, sizes": ("pyro_exponential", {**FIXED, **SIZES}),
    "exponential, sizes, nndsvd": ("pyro_exponential", {**FIXED, **SIZES, "init": "nndsvd"}),
    "exponential, sizes, ARD": ("pyro_exponential", {**FIXED, **SIZES, "learn_rates": "pattern"}),
    "exponential, sizes, nndsvd, ARD": (
        "pyro_exponential",
        {**FIXED, **SIZES, "init": "nndsvd", "learn_rates": "pattern"},
    ),
    "exponential, sizes, p by gene": ("pyro_exponential", {**SIZES, "learn_probs": "gene"}),
    "exponential, sizes, nndsvd, p by gene": (
        "pyro_exponential",
        {**SIZES, "init": "nndsvd", "learn_probs": "gene"},
    ),
    "gamma": ("pyro_gamma_nb", {}),
    "gamma, ARD": ("pyro_gamma_nb", {"learn_rates": "pattern"}),
    "gamma, nndsvd": ("pyro_gamma_nb", {"init": "nndsvd"}),
    "gamma, p by gene": ("pyro_gamma_nb", {"learn_probs": "gene"}),
    "gamma, sizes": ("pyro_gamma_nb", SIZES),
    "gamma, sizes, nndsvd": ("pyro_gamma_nb", {**SIZES, "init": "nndsvd"}),
    "gamma, sizes, nndsvd, ARD": ("pyro_gamma_nb", {**SIZES, "init": "nndsvd", "learn_rates": "pattern"}),
    "gamma, sizes, p by gene": ("pyro_gamma_nb", {**SIZES, "learn_probs": "gene"}),
    "pnmf": ("pnmf", PNMF),
    "pnmf, exposure": ("pnmf", {**PNMF, "exposure": "total"}),
    "pnmf, exposure, several": ("pnmf", {**PNMF, "exposure": "total", "init": "several"}),
    "pnmf, exposure, nndsvda": ("pnmf", {**PNMF, "exposure": "total", "init": "nndsvda"}),
    "pnmf_donor, exposure": ("pnmf_donor", {**PNMF, "exposure": "total"}),
}
FORMS = ("raw", "shares", "sqrt_shares")
IN_USE = "in use"
HELD_OUT = 0.05


def read(path: str, n_genes: int):
    """Counts of the most variable genes (CSR, float32) and obs."""
    import anndata
    import scanpy
    import scipy.sparse as sp

    adata = anndata.read_h5ad(path)
    scanpy.pp.highly_variable_genes(adata, n_top_genes=n_genes, flavor="seurat_v3")
    adata = adata[:, adata.var["highly_variable"]]
    adata = adata[np.asarray(adata.X.sum(axis=1)).ravel() > 0]
    return sp.csr_matrix(adata.X, dtype=np.float32), adata.obs


def fit(kind: str, settings: dict, X, rank: int, seed: int, donors, max_iter: int | None = None):
    """A fitted model, and its factors per unit of what they count."""
    from nmfbench.models import get_card, get_model

    card = get_card(kind)
    model = get_model(kind)(rank, **settings, random_state=seed, **({"device": "cpu"} if card.gpu else {}))
    given = {"conditions": donors} if card.conditional else {}
    if kind.startswith("pyro"):
        model.set_params(held_out_fraction=HELD_OUT, marker_draws=0, max_iter=max_iter)
    if card.input == "normalised":
        X = X.multiply(1e4 / np.asarray(X.sum(axis=1))).tocsr().log1p().astype(np.float32)
    return model.fit(X, **given, progress=False)


def forms(model, asked: list[str]):
    """Name and array of every form that is asked for and that the model has."""
    from nmfbench.models.count_embedding import in_form

    factors = next(iter(model.embeddings().values()))
    if not hasattr(model, "embedding"):  # no model of counts
        yield "raw", factors
        return
    units = model._units()[-factors.shape[1] :]
    kept = {"": np.full(factors.shape[1], True)}
    if hasattr(model, "in_use_"):
        kept[f", {IN_USE}"] = model.in_use_
    for form in asked:
        name, _, which = form.partition(",")
        columns = kept.get(f",{which}" if which else "")
        if columns is not None:
            yield form, in_form(factors[:, columns], units[columns], name)


def scores(H: np.ndarray, obs, forest: bool) -> dict[str, float]:
    """F1, NMI and ARI of the cell type, F1 and NMI of the donor."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.neighbors import KNeighborsClassifier

    from nmfbench.metrics.clustering import leiden_labels, neighbour_graph, score_clusters

    Z = (H - H.mean(axis=0)) / np.maximum(H.std(axis=0), 1e-12)
    types, donors = obs["cell_type"].astype(str).to_numpy(), obs["donor_id"].astype(str).to_numpy()
    clusters = leiden_labels(neighbour_graph(H), seeds=[0, 1, 2])
    of_type, of_donor = (score_clusters(clusters, y)[["NMI", "ARI"]].mean() for y in (types, donors))
    found = {
        "F1": macro_f1(KNeighborsClassifier(15), Z, types),
        "NMI": of_type["NMI"],
        "ARI": of_type["ARI"],
        "donor F1": macro_f1(KNeighborsClassifier(15), Z, donors),
        "donor NMI": of_donor["NMI"],
    }
    if forest:
        trees = RandomForestClassifier(100, random_state=0)
        found["donor F1, trees"] = macro_f1(trees, Z, donors)
    return found


def macro_f1(classifier, Z: np.ndarray, y: np.ndarray) -> float:
    """Mean of five folds."""
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return float(cross_val_score(classifier, Z, y, scoring="f1_macro", cv=folds).mean())


def one_gene(W: np.ndarray) -> float:
    """Share of the factors more than half of whose squared loadings is one gene's."""
    squares = W.astype(np.float64) ** 2
    return float((squares.max(axis=1) > 0.5 * squares.sum(axis=1)).mean())


def main(given: list[str] | None = None) -> pd.DataFrame:
    """Print the table of means; returns that of every fit."""
    options = arguments(given)

    warnings.filterwarnings("ignore")
    X, obs = read(options.path, options.genes)
    print(f"{X.shape[0]} cells x {X.shape[1]} genes", flush=True)
    rows = []
    for rank in options.ranks:
        for name in options.only or WAYS:
            for seed in options.seeds:
                began = time.process_time()
                donors = obs["donor_id"].astype(str).to_numpy()
                model = fit(*WAYS[name], X, rank, seed, donors, options.max_iter)
                about = {
                    "rank": rank, "way": name, "seed": seed, "cpu_s": time.process_time() - began,
                    "steps": model.n_iter_, "objective": model.objective_,
                    "held out": getattr(model, "held_out_log_likelihood_", None),
                    "one gene": one_gene(model.components_),
                    "used": getattr(model, "in_use_", np.ones(rank)).sum(),
                }  # fmt: skip
                for form, H in forms(model, options.forms):
                    rows.append(about | {"form": form} | scores(H, obs, options.forest))
                    if options.out:
                        pd.DataFrame(rows).to_csv(options.out, sep="\t", index=False, float_format="%.5g")
                    print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    means = table.groupby(["rank", "way", "form"], sort=False).mean(numeric_only=True).drop(columns="seed")
    print(means.round(3).to_string())
    return table


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("path", help="counts, with cell_type and donor_id in obs")
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--ranks", type=int, nargs="+", default=[15, 80])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--max-iter", type=int, help="sweeps of the Bayesian models; by default their own")
    parser.add_argument("--only", nargs="+", choices=list(WAYS))
    every = [*FORMS, *(f"{form}, {IN_USE}" for form in FORMS)]
    parser.add_argument("--forms", nargs="+", choices=every, default=every)
    parser.add_argument("--forest", action="store_true", help="the donor's F1 by a random forest too")
    parser.add_argument("--out", type=Path, help="table of every fit, tab-separated")
    return parser.parse_args(given)


if __name__ == "__main__":
    main()
