"""Registered models that are told the donors, at several weights of the donors' likeness, on labelled counts.

    python benchmarks/denoising_conditional.py a.h5ad --models cae_nmf1_common cae_nmf2_common \\
        --rank 20 --scaling sqrt --seeds 3 --weights 0 20 100 --out t.tsv
    python benchmarks/denoising_conditional.py --table t.tsv

The protocol is that of benchmarks/denoising.py. A model without `penalty_invariance` has one row for all
weights; one of counts is given the counts and scales its genes itself. Rows that `--out` holds already are
not made again. `--unseen` fits half of the molecules and gives the error of the other half, relative to its
squares, where each cell is written by loadings and profiles of its donor.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
from denoising import Cells, gene_factors, one_gene, scaled, score, seen_and_unseen
from denoising_tables import table

from nmfbench.data import normalise_block
from nmfbench.models import get_card, get_model


def fit(kind: str, cells: Cells, X, factors: np.ndarray, rank: int, seed: int, **settings):
    """The fitted estimator; `X` are the scaled values of a model that does not normalise for itself."""
    model, card = get_model(kind)(rank, random_state=seed, **settings), get_card(kind)
    if card.normalises:
        model.gene_factors = factors.astype(np.float32)
    given = {"conditions": cells.donors} if card.conditional else {}
    return model.fit(cells.counts if card.normalises else X, progress=False, **given)


def errors_of_unseen(model, X, given, Y) -> dict[str, float]:
    """||Y - what is written of X||² / ||Y||², and where each gene is written from the others.

    `given` is X as the model was given it: the counts, if it normalises for itself.
    """
    errors = np.zeros(2)
    # what each gene has of itself: a number for each gene and donor, or for all donors
    V = np.asarray(model._decoder().V, np.float64)
    own = (V * model.components_).sum(axis=1)
    donors = model.conditions_.codes[:, 0] if len(own) > 1 else np.zeros(X.shape[0], int)
    for low in range(0, X.shape[0], 512):
        rows = slice(low, low + 512)
        missed = Y[rows].toarray() - model.expected_values(given, rows)
        errors += np.square(missed).sum(), np.square(missed + X[rows].toarray() * own[donors[rows]]).sum()
    whole, others = errors / Y.multiply(Y).sum()
    return {"unseen_error": float(whole), "unseen_error_from_other_genes": float(others)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("h5ad", nargs="?")
    parser.add_argument("--models", nargs="+", default=["cae_nmf1_common", "cae_nmf2_common"])
    parser.add_argument("--n-top", type=int, default=2000, help="variable genes; 0: all")
    parser.add_argument("--rank", type=int, default=20)
    parser.add_argument("--scaling", default="sqrt")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 20.0, 100.0])
    parser.add_argument("--settings", nargs="*", default=[], metavar="KEY=NUMBER", help="of every model")
    parser.add_argument("--unseen", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", nargs="+")
    options = parser.parse_args()
    if options.table:
        print(table(options.table))
        return
    cells = Cells(options.h5ad, options.n_top)
    counts = cells.counts
    asked = {key: float(value) for key, value in (pair.split("=") for pair in options.settings)}
    done = pd.read_csv(options.out, sep="\t") if options.out and options.out.exists() else pd.DataFrame()
    for seed in range(options.seeds):
        if options.unseen:
            cells.counts, later = seen_and_unseen(counts, seed)
        X = normalise_block(cells.counts)
        factors = gene_factors(X, options.scaling)
        X = scaled(X, factors)
        for kind in options.models:
            weighed = "penalty_invariance" in get_card(kind).section.model_fields
            for weight in options.weights if weighed else [None]:
                settings = asked | ({} if weight is None else {"penalty_invariance": weight})
                shown = " ".join([kind, *(f"{key}={value:g}" for key, value in settings.items())])
                key = {"data": cells.name, "model": shown, "rank": options.rank}
                key |= {"scaling": options.scaling, "seed": seed}
                if len(done) and (done[list(key)] == pd.Series(key)).all(axis=1).any():
                    continue
                began = time.process_time()
                model = fit(kind, cells, X, factors, options.rank, seed, **settings)
                made = {"sweeps": model.n_iter_, "cpu_s": time.process_time() - began}
                made["one_gene"] = one_gene(model.components_)
                if options.unseen:
                    given = cells.counts if get_card(kind).normalises else X
                    Y = scaled(normalise_block(later), factors)
                    found = errors_of_unseen(model, X, given, Y)
                else:
                    found = score(model.embedding_, cells.types, cells.donors)
                row = pd.DataFrame([key | found | made])
                done = pd.concat([done, row], ignore_index=True)
                if options.out:
                    done.to_csv(options.out, sep="\t", index=False)
                print(row.to_string(index=False, header=False), flush=True)


if __name__ == "__main__":
    main()
