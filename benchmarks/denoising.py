"""How the embeddings of objectives, trainings and gene scalings do on one file of labelled counts.

    python benchmarks/denoising.py a.h5ad --rows "ae_nmf_split 80 none" "pca 50 none" --seeds 5 --out t.tsv
    python benchmarks/denoising.py a.h5ad --unseen --rows "ae_nmf 80 none" "ae_nmf_split 80 none" --out u.tsv
    python benchmarks/denoising.py a.h5ad --by-sweep 80 --out copying.tsv
    python benchmarks/denoising.py --figure copying.png copying.tsv
    python benchmarks/denoising.py a.h5ad --final --seeds 5 --out t.tsv   # the table of docs/which_model.md
    python benchmarks/denoising.py --table t.tsv
    python benchmarks/denoising.py --rank u.tsv   # smallest rank within 0.2 % of the least unseen error

A row is a model, its rank, how genes are scaled, and settings of the model (`penalty_invariance=30`,
`embedding=least_squares`); `harmony=0.5` has Harmony move the donors with that theta, and cuts off at 0.
`--donors` keeps cells of some donors, so that one part of a file can be chosen by and the other confirm. The
protocol is a quick one: z-scored factors, 15 nearest neighbours, macro F1 of five folds; Leiden at resolution
0.8 with three seeds, its NMI and ARI; the same of the donors. `one_gene` is the share of factors of which one
gene has more than half the square, `one_gene_90` more than 90 %. Rows that `--out` holds already are not made
again. `--unseen` fits half of the molecules and gives the error of the other half. `--table` prints means
with 95 % intervals over the seeds (Student's t).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from denoising_tables import figure, rank_by_unseen, table

from nmfbench.data import filter_donors, normalise_block, read_filtered
from nmfbench.data.halves import mean_and_difference, split_counts
from nmfbench.least_squares import non_negative_least_squares
from nmfbench.metrics.classification import classify
from nmfbench.metrics.clustering import leiden_labels, neighbour_graph
from nmfbench.models import get_card, get_model
from nmfbench.models.autoencoder.card import AENMF
from nmfbench.models.autoencoder.exact import GramOperator, TiedObjective, minimise, start
from nmfbench.models.autoencoder.exact.denoising import (
    BlindObjective,
    start_of_blind,
    start_of_halves,
    unique_squares,
)
from nmfbench.models.base_nmf.harmony import moved_factors
from nmfbench.models.denoising.card import CommonNMF
from nmfbench.models.given import codes_of

RIDGE = 1e-2
N_AXES = CommonNMF().n_axes
SCORES = ("F1", "NMI", "ARI", "donor_F1", "donor_NMI")
EXACT = {
    "ae_nmf": start,
    "ae_nmf_common": start,
    "ae_nmf_split": start_of_halves,
    "ae_nmf_split_alone": start_of_halves,  # communality: false
    "ae_nmf_blind": start_of_blind,
}

FINAL = (
    "nmf_harmony 50 sqrt theta=0.5", "nmf_harmony 50 sqrt", "nmf_harmony 40 sqrt",
    "harmony 20 none", "harmony 30 none", "harmony 50 none",
    "pca 20 none", "pca 30 none", "pca 50 none", "pca 20 sqrt", "harmony 20 sqrt", "harmony 30 sqrt",
    "cae_nmf1_common 20 sqrt", "cae_nmf2_common 20 sqrt",
    "base_nmf 50 sqrt", "base_nmf 30 unit_variance", "ae_nmf_common 20 sqrt", "ae_nmf_split 20 sqrt",
    "ae_nmf_blind 20 sqrt", "ae_nmf 20 sqrt", "ae_nmf 80 none", "ae_nmf_common 80 none",
    "ae_nmf_split 80 none", "ae_nmf_minibatch 80 none", "ae_nmf_published 80 none", "ae_nmf_common 50 sqrt",
    *(f"{row} embedding=least_squares" for row in (
        "ae_nmf_common 20 sqrt", "ae_nmf_common 30 sqrt", "ae_nmf_common 50 sqrt",
        "ae_nmf_common 30 unit_variance", "ae_nmf_common 80 none", "ae_nmf_split 80 none",
        "cae_nmf1_common 20 sqrt", "cae_nmf2_common 20 sqrt",
    )),
)  # fmt: skip
ONCE = ("pca",)  # exact: no seed changes them


class Cells:
    """Counts and labels of a file, with the variable genes only."""

    def __init__(self, path: str, n_top: int | None, donors: list[str] | None = None) -> None:
        genes = {"select": "hvg", "n_top": n_top} if n_top else None
        with tempfile.TemporaryDirectory() as folder:
            filtered = Path(folder) / "filtered.h5ad"
            filter_donors(path, filtered, f"{filtered}.tsv", min_cells_per_donor=1, genes=genes)
            data = read_filtered(filtered)
            self.counts = sp.vstack([block for _, block in data.blocks()], format="csr")
            self.types, self.donors = (np.asarray(data.label(name)) for name in ("cell_type", "donor_id"))
        self.name = Path(path).stem
        if donors:
            kept = np.isin(self.donors, donors)
            self.counts, self.types, self.donors = self.counts[kept], self.types[kept], self.donors[kept]
            self.name += ":" + ",".join(donors)


def gene_factors(X: sp.csr_matrix, scaling: str) -> np.ndarray:
    """What each gene is multiplied with: 1, 1/sd or 1/√sd."""
    if scaling == "none":
        return np.ones(X.shape[1])
    mean = np.asarray(X.mean(axis=0)).ravel()
    sd = np.sqrt(np.maximum(np.asarray(X.multiply(X).mean(axis=0)).ravel() - mean**2, 0))
    sd[sd == 0] = 1
    return 1 / (sd if scaling == "unit_variance" else np.sqrt(sd))


def scaled(X: sp.csr_matrix, factors: np.ndarray) -> sp.csr_matrix:
    """X with its columns multiplied, float32."""
    return (X @ sp.diags(factors)).astype(np.float32).tocsr()


def operator_for(model: str, counts, X, factors, seed: int) -> GramOperator:
    """What the exact descent of `model` goes through."""
    parts = [X]
    if "split" in model:
        parts = [scaled(part, factors) for part in mean_and_difference(counts, 0, seed)]
    K = np.stack([(part.T @ part).toarray() for part in parts]).astype(np.float32)
    return GramOperator(K, n_cells=X.shape[0])


def descend(model: str, operator: GramOperator, rank: int, seed: int, **options):
    """Fit loadings; the number of sweeps is `n_iter`."""
    W = EXACT[model](operator, rank, "nndsvd", seed=seed, ridge=RIDGE * operator.n_cells)
    if model == "ae_nmf_blind":
        return minimise(BlindObjective(operator, W, penalty_W=RIDGE), **options)
    common = model in ("ae_nmf_common", "ae_nmf_split")
    unique = (
        unique_squares(operator, min(N_AXES, rank), seed=seed, halves="split" in model) if common else None
    )
    objective = TiedObjective(operator, W, penalty_W=RIDGE, split="split" in model, unique=unique)
    return minimise(objective, **options)


def embed(cells: Cells, model: str, rank: int, scaling: str, seed: int, **settings):
    """Embedding, loadings (or None), and sweeps or epochs."""
    X = normalise_block(cells.counts)
    factors = gene_factors(X, scaling)
    X = scaled(X, factors) if scaling != "none" else X
    if model in EXACT and not settings.keys() - {"embedding"}:
        found = descend(model, operator_for(model, cells.counts, X, factors, seed), rank, seed)
        W, H = found.W.astype(np.float64), X @ found.W.T
        if settings.get("embedding") == "least_squares":
            H = non_negative_least_squares(W @ W.T, H)
        return H, found.W, found.n_iter
    given: dict[str, object] = {}
    if model == "ae_nmf_published":
        section = AENMF.model_validate({"training": "published"})
        fitted = get_model("ae_nmf")(rank, **section.parameters(), random_state=seed)
        given["strata"] = cells.types
    elif model == "ae_nmf_minibatch":
        fitted, given["strata"] = (
            get_model("ae_nmf")(rank, solver="minibatch", random_state=seed),
            cells.types,
        )
    else:
        fitted = get_model(model)(rank, random_state=seed, **settings)
        given |= {"conditions": cells.donors} if get_card(model).conditional else {}
    fitted.fit(X, progress=False, **given)
    W = fitted.components_ if model not in ("pca", "harmony") else None
    return fitted.embedding_, W, fitted.n_iter_


def score(H, types, donors) -> dict[str, float]:
    """The quick protocol."""
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    H = np.ascontiguousarray(H, np.float32)
    clusters = leiden_labels(neighbour_graph(H, 15), seeds=range(3))
    found = {}
    for prefix, labels in (("", types), ("donor_", donors)):
        found[f"{prefix}F1"] = classify(H, labels, cv_seed=0, classifiers=["knn"])["F1"].mean()
        columns = [clusters[name] for name in clusters]
        found[f"{prefix}NMI"] = np.mean([normalized_mutual_info_score(labels, c) for c in columns])
        found[f"{prefix}ARI"] = np.mean([adjusted_rand_score(labels, c) for c in columns])
    return found


def one_gene(W: np.ndarray | None, share: float = 0.5) -> float:
    """Share of factors of which one gene has more than half (or another share) of the square."""
    if W is None:
        return np.nan
    squares = np.square(W, dtype=np.float64)
    return float((squares.max(axis=1) > share * np.maximum(squares.sum(axis=1), 1e-300)).mean())


def compare(cells: Cells, model: str, rank: int, scaling: str, seed: int, **settings) -> dict[str, object]:
    """A row of scores."""
    began = time.process_time()
    theta = settings.pop("harmony", None)
    H, W, sweeps = embed(cells, model, rank, scaling, seed, **settings)
    if theta is not None:
        H = moved_factors(H, codes_of(cells.donors), model, theta=theta, rounds=10, seed=seed)
    took = time.process_time() - began
    copied = {"one_gene": one_gene(W), "one_gene_90": one_gene(W, 0.9)}
    return {**score(H, cells.types, cells.donors), **copied, "sweeps": sweeps, "cpu_s": took}


def seen_and_unseen(counts, seed: int) -> list[sp.csr_matrix]:
    """The molecules of each cell dealt out to two halves."""
    parts = split_counts(counts, 0, [seed, 1])
    # copies: what drops its zeros must not share its indices
    halves = [sp.csr_matrix((part, counts.indices, counts.indptr), counts.shape, copy=True) for part in parts]
    for half in halves:
        half.eliminate_zeros()
    return halves


def unseen(cells: Cells, model: str, rank: int, scaling: str, seed: int) -> dict[str, object]:
    """Error of one half of the molecules, written from the other by loadings that saw the other alone.

    The unseen half is scaled as the seen one; the error is relative to its sum of squares.
    """
    seen, later = seen_and_unseen(cells.counts, seed)
    X, Y = normalise_block(seen), normalise_block(later)
    factors = gene_factors(X, scaling)
    X, Y = scaled(X, factors), scaled(Y, factors)
    found = descend(model, operator_for(model, seen, X, factors, seed), rank, seed)
    through = found.W.T.astype(np.float64) @ found.W
    row: dict[str, object] = {"one_gene": one_gene(found.W), "sweeps": found.n_iter}
    row["unseen_error"] = error_of(X, Y, through)
    np.fill_diagonal(through, 0)
    row["unseen_error_from_other_genes"] = error_of(X, Y, through)
    return row


def error_of(X, Y, through: np.ndarray) -> float:
    """||Y - X P||² / ||Y||², in blocks of cells."""
    total = 0.0
    for low in range(0, X.shape[0], 512):
        total += np.square(Y[low : low + 512].toarray() - X[low : low + 512] @ through).sum()
    return float(total / Y.multiply(Y).sum())


def by_sweep(cells: Cells, rank: int, model: str = "ae_nmf", seed: int = 0) -> list[dict[str, object]]:
    """Scores and copying where the descent is stopped after so many sweeps."""
    X = normalise_block(cells.counts)
    operator = operator_for(model, cells.counts, X, np.ones(X.shape[1]), seed)
    rows = []
    for sweeps in (0, 1, 3, 10, 30, 100, 500):
        found = descend(model, operator, rank, seed, max_iter=max(sweeps, 1)) if sweeps else None
        ridge = RIDGE * operator.n_cells
        W = found.W if found else EXACT[model](operator, rank, "nndsvd", seed=seed, ridge=ridge)
        end = {"sweeps": found.n_iter, "relative_error": found.relative_error} if found else {"sweeps": 0}
        rows.append({**end, "one_gene": one_gene(W), **score(X @ W.T, cells.types, cells.donors)})
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("h5ad", nargs="?")
    parser.add_argument("--n-top", type=int, default=2000, help="variable genes; 0: all")
    parser.add_argument("--rows", nargs="+", default=[], metavar="'MODEL RANK SCALING [KEY=VALUE ...]'")
    parser.add_argument("--final", action="store_true", help="the rows of docs/which_model.md")
    parser.add_argument("--donors", nargs="+", help="of these alone")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--unseen", action="store_true")
    parser.add_argument("--by-sweep", type=int, metavar="RANK")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", nargs="+")
    parser.add_argument("--rank", nargs="+", help="tables of --unseen: the rank that they ask for")
    parser.add_argument("--figure", nargs=2, metavar=("PNG", "TSV"))
    options = parser.parse_args(arguments)
    if options.table:
        print(table(options.table))
        return
    if options.rank:
        print(rank_by_unseen(options.rank))
        return
    if options.figure:
        figure(options.figure[0], pd.read_csv(options.figure[1], sep="\t"))
        return
    cells = Cells(options.h5ad, options.n_top, options.donors)
    if options.by_sweep:
        models = ("ae_nmf", "ae_nmf_common")
        rows = [{"model": m, **row} for m in models for row in by_sweep(cells, options.by_sweep, m)]
        pd.DataFrame(rows).to_csv(options.out, sep="\t", index=False)
        return
    make = unseen if options.unseen else compare
    done = pd.read_csv(options.out, sep="\t") if options.out.exists() else pd.DataFrame()
    for seed in range(options.seeds):
        for text in FINAL if options.final else options.rows:
            model, rank, scaling, *more = text.split()
            if seed and model in ONCE:
                continue
            settings = {name: yaml.safe_load(value) for name, value in (pair.split("=") for pair in more)}
            shown = " ".join([model, *more])
            key = {"data": cells.name, "model": shown, "rank": int(rank), "scaling": scaling, "seed": seed}
            if len(done) and (done[list(key)] == pd.Series(key)).all(axis=1).any():
                continue
            row = pd.DataFrame([key | make(cells, model, int(rank), scaling, seed, **settings)])
            done = pd.concat([done, row], ignore_index=True)
            done.to_csv(options.out, sep="\t", index=False)
            print(row.to_string(index=False, header=False), flush=True)


if __name__ == "__main__":
    main()
