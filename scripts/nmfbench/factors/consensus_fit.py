"""A consensus of fits as a fit of its own: result, history and record, as every model has them."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nmfbench.errors import InputError
from nmfbench.factors.consensus import DENSITY_THRESHOLD, clustering_arrays, find_consensus, refit
from nmfbench.factors.stored import StoredFit
from nmfbench.fitting.engine import orthogonality
from nmfbench.models.estimator import Embedding

log = logging.getLogger(__name__)


class ConsensusPrograms(Embedding):
    """Embeds cells by non-negative least squares on given programs; made by :func:`fit_consensus`.

    Parameters
    ----------
    n_components : int, default=80
    """

    def __init__(self, n_components=80):
        self.n_components = n_components

    def transform(self, X) -> np.ndarray:
        """Usages of the programs, of shape (cells, k)."""
        X = self._check_input(X, reset=False)
        programs = np.ascontiguousarray(self.components_.T, dtype=np.float64)
        usages, _ = refit([(0, X)], programs, X.shape[0])
        return usages


def fit_consensus(
    members: Sequence[str | Path],
    records: Sequence[str | Path],
    filtered: str | Path,
    *,
    result: str | Path,
    history: str | Path,
    record: str | Path,
    stability: str | Path,
    clustering: str | Path,
    name: str,
    of: str,
    display_name: str,
    seed: int,
    settings: Mapping[str, Any],
    threads: int = 1,
) -> None:
    """Write what the consensus of some fits is.

    Parameters
    ----------
    members, records : sequence of path
        ``result.h5ad`` and ``run.json`` of the fits.
    filtered : path
        The counts they were trained on.
    result, history, record : path
        Files to be written, as of every fit.
    stability : path
        A table with one row: fits, stability, error, factors left out, agreement.
    clustering : path
        An .npz of the factors and their distances, see :func:`nmfbench.factors.consensus.clustering_arrays`.
    name, of, display_name : str
        The consensus' name in the config, the model that its members are of, its name in figures.
    seed : int
        Of the grid.
    settings : mapping
        ``density_threshold`` and ``neighbour_share``.
    threads : int
        For ``run.json``.

    Raises
    ------
    InputError
        The fits do not belong together, or do not agree.
    """
    import pandas as pd

    from nmfbench.atomic import whole_file
    from nmfbench.data.filtered import normalise_block, read_filtered
    from nmfbench.job import commit, versions, write_json
    from nmfbench.memory import peak_mb
    from nmfbench.results import write_result
    from nmfbench.tables.files import write_table

    started = time.monotonic()
    fits = [StoredFit(path) for path in members]
    told = [json.loads(Path(path).read_text(encoding="utf-8")) for path in records]
    data = read_filtered(filtered)
    _check_members(fits, data, str(filtered))
    k = fits[0].n_factors
    found = find_consensus([fit.loadings for fit in fits], **settings)
    normalisation = told[0]["normalisation"]
    blocks = ((start, normalise_block(block, **normalisation)) for start, block in data.blocks())
    usages, error = refit(blocks, found.programs, data.n_cells)
    seconds = time.monotonic() - started
    objective = error["squared_error"] / data.n_cells
    log.info(
        "%d fits of rank %d: stability %.3f, relative error %.4f, %d of %d factors left out",
        *(len(fits), k, found.stability, error["relative_error"], found.n_outliers, len(found.clusters)),
    )
    uses_labels = list(dict.fromkeys(label for one in told for label in one["uses_labels"]))
    named = {"model": name, "display_name": display_name, "rank": k, "seed": seed}
    key = f"H_consensus_k{k}"
    checksum = write_result(
        result,
        obs=data.obs,
        var=data.var,
        obsm={key: usages},
        varm={f"W_consensus_k{k}": found.programs.astype(np.float32)},
        uns={
            "model_name": f"consensus_{of}",
            "k_rank": k,
            "n_fits": len(fits),
            "stability": found.stability,
            "fits_with_program": found.fits,
            "factors_in_program": found.sizes,
        },
        record=named
        | {"embedding": key, "uses_labels": ",".join(uses_labels), "training_seed": seed, "transform": {}},
    )
    row = {
        "epoch": len(fits),
        "objective": objective,
        "reconstruction": objective,
        "relative_error": error["relative_error"],
        "seconds": seconds,
        "cells_per_s": data.n_cells / max(seconds, 1e-9),
        "peak_mb": peak_mb(),
        "orthogonality": orthogonality(found.programs.T @ found.programs),
    }
    write_table(pd.DataFrame([row]), history)
    members_told = {"n_fits": len(fits), "seconds_of_fits": sum(one["seconds"] for one in told)}
    summary = {
        **{"of": of, **members_told, "stability": found.stability},
        **{"relative_error": error["relative_error"], "squared_error": error["squared_error"]},
        **{"n_outliers": found.n_outliers, "share_outliers": found.n_outliers / len(found.clusters)},
        **{"fits_with_program": found.fits.mean(), "fewest_fits_with_program": found.fits.min()},
        **{"best_single_error": min(one["relative_error"] for one in told)},
    }
    write_table(pd.DataFrame([summary]), stability)
    threshold = settings.get("density_threshold", DENSITY_THRESHOLD)
    with whole_file(clustering) as part:
        np.savez_compressed(part, **clustering_arrays(found, len(fits), threshold))
    write_json(
        record,
        {
            "kind": "consensus",
            **named,
            "parameters": {"n_components": k, **settings},
            "consensus_of": {"model": of, "seeds": [one["seed"] for one in told], **members_told},
            "normalisation": normalisation,
            "condition_columns": told[0]["condition_columns"],
            "uses_labels": uses_labels,
            "embedding": key,
            "threads": threads,
            "n_cells": data.n_cells,
            "n_genes": data.n_genes,
            "nonzeros": data.nnz,
            "seconds": seconds,
            "peak_mb": row["peak_mb"],
            "solver": None,
            "device": "cpu",
            "gpu_peak_mb": None,
            "epochs": len(fits),
            "iterations": len(fits),
            "unit": "fit",
            "stop_reason": "converged",
            "converged": all(one["converged"] for one in told),
            "objective": objective,
            "relative_error": error["relative_error"],
            "external": None,
            "held_out_log_likelihood": None,
            "data_fingerprint": data.fingerprint,
            "result_checksum": checksum,
            "warnings": list(data.provenance.get("warnings", [])),
            "versions": versions(),
            "commit": commit(),
        },
    )


def _check_members(fits: Sequence[StoredFit], data: Any, filtered: str) -> None:
    """Refuse fits of other cells or genes, and loadings with negative entries."""
    for fit in fits:
        if fit.n_cells != data.n_cells or not fit.var.index.equals(data.var.index):
            raise InputError(
                f"{fit.path} and {filtered}",
                "fits of the same cells and genes",
                f"{fit.n_cells} cells x {fit.n_genes} genes, and {data.n_cells} x {data.n_genes}",
                "train the fit again",
            )
        if fit.loadings.min() < 0:
            raise InputError(
                f"{fit.path}: loadings",
                "not negative",
                "negative entries",
                "take a non-negative model (of: ...)",
            )
