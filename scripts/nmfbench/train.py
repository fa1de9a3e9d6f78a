"""One fit, from filtered counts to a results-only .h5ad, its history and its ``run.json``."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmfbench.errors import InputError
from nmfbench.fit_files import outcome, told_of_missing, write_fit, write_history
from nmfbench.gpu_use import GpuUse
from nmfbench.job import Interrupted, Job, commit, versions, write_json
from nmfbench.memory import peak_mb

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from nmfbench.data.filtered import FilteredCounts
    from nmfbench.models.card import ModelCard
    from nmfbench.tensorboard import TensorBoardLog

log = logging.getLogger(__name__)


def train(
    filtered: str,
    *,
    result: str,
    history: str,
    record: str,
    kind: str,
    name: str,
    display_name: str,
    settings: Mapping[str, Any],
    rank: int,
    seed: int,
    device: str,
    normalisation: Mapping[str, Any],
    condition_columns: Sequence[str],
    run: Job,
    statistics: str | None = None,
    shuffled: str | None = None,
    out_of_core: bool | str = "auto",
    in_memory_mb: float = math.inf,
    gene_scaling: str = "none",
    tensorboard: Mapping[str, Any] | None = None,
) -> None:
    """Fit one model and write what it learnt.

    A checkpoint is kept in a folder beside the outputs while training runs, so
    that a job that was killed goes on from there; it is removed at the end.

    Parameters
    ----------
    filtered : str
        The filtered counts.
    result, history, record : str
        The results-only .h5ad, the table with a row for each epoch, and ``run.json``.
    kind, name, display_name : str
        The registered model, its name in the config and its name in figures.
    settings : mapping
        The estimator's parameters from the config.
    rank, seed : int
        Number of factors and training seed.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``mps``.
    normalisation : mapping
        ``target_sum`` and ``log1p``. A model that asks for counts is given them as they are instead.
    condition_columns : sequence of str
        Columns of obs that a conditional model is conditioned on.
    run : Job
        The job around the fit: threads, terminal, stop signals.
    statistics : str, optional
        The sufficient statistics of all cells, for an autoencoder that is fitted from them.
    shuffled : str, optional
        The shuffled store, for an autoencoder that takes minibatches out of core.
    out_of_core, in_memory_mb : "auto" or bool, float
        Whether an autoencoder leaves the cells on disk; see :func:`nmfbench.rows.opening.place`. Its
        embedding is written in blocks either way.
    gene_scaling : {"none", "unit_variance", "sqrt"}
        What normalised values are divided by (:func:`nmfbench.rows.scaled.gene_factors`); a model of counts
        has none. Loadings are written on the scale of the values before.
    tensorboard : mapping or None
        Parameters of :class:`~nmfbench.tensorboard.TensorBoardLog`: ``folder``, ``state_every`` and
        ``max_points``. None writes no event files. The fit is the same either way.

    Raises
    ------
    InputError
        If the data cannot carry this fit (rank, donors, device ...).
    Interrupted
        If the job was told to stop; the checkpoint holds the state.
    """
    from threadpoolctl import threadpool_limits

    from nmfbench.data import AS_COUNTED, read_filtered
    from nmfbench.models import get_card
    from nmfbench.rows.disk import FilteredRows
    from nmfbench.rows.memory import InMemoryRows
    from nmfbench.rows.opening import open_rows, place
    from nmfbench.rows.scaled import scaled_rows
    from nmfbench.warm_up import warm_up

    started = time.monotonic()
    card = get_card(kind)
    to_values = dict(normalisation)
    if card.normalises:
        settings = {**settings, **to_values}
    normalisation = to_values if card.input == "normalised" else AS_COUNTED
    data = read_filtered(filtered)
    _check_rank(filtered, rank, data.n_cells, data.n_genes)
    model = make_model(card, rank, settings, seed, device)
    if card.gpu and device not in ("auto", "cpu"):
        from nmfbench.device import resolve_device  # loads torch

        resolve_device(device)  # refused before anything is read or compiled
    use = run.card or GpuUse.of(device if card.gpu else "cpu")
    checkpoint = Path(result).parent / "checkpoint"
    labels = {"conditions": _conditions(data, condition_columns) if card.conditional else None}
    grouped = getattr(model, "multigroup", False)
    if grouped:
        labels["groups"] = _conditions(data, condition_columns).astype(str).agg(" ".join, axis=1)
    placement = place(data.nnz, out_of_core if hasattr(model, "fit_rows") else False, in_memory_mb)
    with threadpool_limits(run.threads), ExitStack() as opened:
        opened.callback(use.stop)
        loaded, rows = time.monotonic(), None
        in_order = FilteredRows(data, normalisation)
        factors = None
        if gene_scaling != "none" and (card.input == "normalised" or card.normalises):
            factors = _gene_factors(gene_scaling, data, to_values, statistics)
            if card.normalises:
                model.gene_factors = factors
            else:
                in_order = scaled_rows(in_order, factors)
        observer = None if tensorboard is None else _observer(tensorboard, data, in_order)
        # lines in the log, which job() also shows on a terminal, in place of a bar
        around = {"checkpoint": checkpoint, "should_stop": run.stop_requested, "progress": False}
        around["observer"] = observer
        given = given_beside(card, data, labels | {"strata": data.label("cell_type")})
        compiled, gathered = 0.0, False
        if statistics is not None:
            compiled = warm_up(model, in_order, given, gathered=True)
            loaded = time.monotonic()
            scaled = {} if factors is None else {"gene_factors": factors}
            seen = None if observer is None else in_order
            gathered = _fit_gathered(model, statistics, data, normalisation, labels, seen, around | scaled)
        if not gathered:
            rows = opened.enter_context(open_rows(data, normalisation, placement, shuffled))
            if factors is not None and not card.normalises:
                rows = _scaled(rows, factors)
            in_order = rows if isinstance(rows, InMemoryRows) else in_order
            compiled += warm_up(model, rows, given)
            loaded = time.monotonic()
            log.info(
                "%d cells x %d genes, %d nonzeros, there in %.1f s",
                data.n_cells, data.n_genes, data.nnz, loaded - started - compiled,
            )  # fmt: skip
            fit_to(model, rows, given, around)
        if model.stop_reason_ == "interrupted":
            raise Interrupted(
                f"epoch {model.n_iter_} is in {checkpoint}; run the same command again to go on"
            )
        trained = time.monotonic()
        conditional = grouped or (card.conditional and getattr(model, "uses_conditions_", True))
        seen = ["cell_type"] * model.uses_labels_ + list(condition_columns) * conditional
        seen += [column for column in getattr(model, "uses_columns_", []) if column not in seen]
        named = {"model": name, "display_name": display_name, "rank": rank, "seed": seed}
        claims = {} if card.non_negative else {"non_negative": False}
        cells, lacking = getattr(model, "cells_", None), {}
        if cells is not None:
            lacking = told_of_missing(data, cells)
        checksum = write_fit(
            model, data, in_order, result=result, normalisation=normalisation,
            record=named
            | {"embedding": model.embedding_key_, "uses_labels": ",".join(seen)} | claims
            | {"training_seed": int(model.seed_), "transform": model.transform_state()}
            | ({} if cells is None else {"cells": cells}),
            scaling=None if factors is None else (gene_scaling, factors),
        )  # fmt: skip
        write_history(model, history, compiled)
    if card.files:
        model.write_files(Path(result).parent)
    write_json(
        record,
        {
            "kind": kind,
            **named,
            "parameters": model.get_params(),
            "normalisation": normalisation,
            **({} if factors is None else {"gene_scaling": gene_scaling}),
            "condition_columns": list(condition_columns) if conditional else [],
            "uses_labels": seen,
            "embedding": model.embedding_key_,
            "rows": placement.record() | {"shuffled": bool(shuffled) and placement.out_of_core},
            "threads": run.threads,
            "n_cells": data.n_cells if cells is None else len(cells),
            "n_genes": data.n_genes,
            "nonzeros": data.nnz,
            "seconds": trained - loaded,
            "seconds_to_load": loaded - started - compiled,
            "seconds_to_compile": compiled,
            "seconds_to_embed": time.monotonic() - trained,
            "peak_mb": peak_mb(),
            "gpu_share": use.share,
            **outcome(model),
            "data_fingerprint": data.fingerprint,
            "result_checksum": checksum,
            "warnings": list(data.provenance.get("warnings", [])) + lacking.pop("warnings", []),
            **lacking,
            "versions": versions(),
            "commit": commit(),
        },
    )
    shutil.rmtree(checkpoint, ignore_errors=True)


def make_model(card: ModelCard, rank: int, settings: Mapping[str, Any], seed: int, device: str) -> Any:
    """The estimator, on `device` where it knows of devices."""
    from nmfbench.models import get_model

    where = {"device": device} if card.gpu else {}
    return get_model(card.kind)(rank, **settings, random_state=seed, **where)


def _conditions(data: FilteredCounts, columns: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame({name: data.label(name) for name in columns})


def given_beside(
    card: ModelCard, data: FilteredCounts, labels: dict[str, Any], cells: Any = slice(None)
) -> dict[str, Any]:
    """What `fit` is given beside the counts of some `cells`: their labels, and what the card asks for."""
    given = dict(labels)
    if "coordinates" in card.needs:
        given["coordinates"] = data.coordinates[cells]
    if "names" in card.needs:  # what is given by name is aligned by name
        given |= {"cell_names": data.obs.index[cells], "gene_names": data.var.index}
    if "tables" in card.needs:
        given |= {"obs": data.obs[cells], "var": data.var}
    return given


def fit_to(model: Any, rows: Any, given: dict[str, Any], around: dict[str, Any]) -> None:
    """Fit to the rows themselves."""
    if hasattr(model, "fit_rows"):
        model.fit_rows(rows, **given, **around)
    else:
        model.fit(rows.csr, fingerprint=rows.fingerprint(), **given, **around)


def _gene_factors(
    scaling: str, data: FilteredCounts, normalisation: Mapping[str, Any], statistics: str | None
) -> np.ndarray:
    """What each gene is multiplied with, from the statistics where they are there, else from a pass."""
    from nmfbench.rows.disk import FilteredRows
    from nmfbench.rows.scaled import gene_factors, gene_moments

    if statistics is None:
        moments = gene_moments(FilteredRows(data, normalisation))
    else:
        from nmfbench.statistics import load

        found = load(statistics, memory_map=True)
        found.require(fingerprint=data.fingerprint, normalisation=dict(normalisation))
        moments = found.gene_sums, found.gene_squares
    return gene_factors(scaling, *moments, data.n_cells)


def _scaled(rows: Any, factors: np.ndarray) -> Any:
    """The rows with their genes scaled; a shuffled store cannot be."""
    from nmfbench.rows.scaled import scaled_rows
    from nmfbench.rows.shuffled import ShuffledRows

    if isinstance(rows, ShuffledRows):
        raise InputError(
            "gene_scaling with minibatches out of core", "cells in memory, or solver: statistics",
            "the shuffled store", "set out_of_core: false, solver: statistics, or gene_scaling: none",
        )  # fmt: skip
    return scaled_rows(rows, factors)


def _observer(settings: Mapping[str, Any], data: FilteredCounts, rows: Any) -> TensorBoardLog:
    """What writes the event files of a fit of `rows`."""
    from nmfbench.tensorboard import TensorBoardLog

    return TensorBoardLog(
        n_cells=data.n_cells,
        rows=rows,
        coordinates=data.coordinates,
        obs=data.obs,
        var=data.var,
        **settings,
    )


def _fit_gathered(
    model: Any,
    statistics: str,
    data: Any,
    normalisation: Mapping[str, Any],
    labels,
    rows: Any,
    around: dict[str, Any],
) -> bool:
    from nmfbench.models.autoencoder.from_statistics import fit_file  # loads torch

    conditions = labels["conditions"]
    return fit_file(model, statistics, data, normalisation, conditions=conditions, rows=rows, **around)


def _check_rank(path: str, rank: int, n_cells: int, n_genes: int) -> None:
    """Refuse a rank that the data cannot carry before anything is loaded."""
    if rank > min(n_cells, n_genes):
        raise InputError(
            f"{path}: rank {rank} is larger than the data",
            f"a rank of at most {min(n_cells, n_genes)}",
            f"{n_cells} cells x {n_genes} genes",
            "lower `ranks` in the config, or keep more genes (datasets.<name>.genes)",
        )
