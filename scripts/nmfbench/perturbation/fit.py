"""Fit a predictor to every fold of a split, and write its model, history and run.json."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nmfbench.job import Job, commit, versions, write_json
from nmfbench.memory import peak_mb
from nmfbench.perturbation.background import Background
from nmfbench.perturbation.control import control_statistics, published_control_statistics
from nmfbench.perturbation.embeddings import Embedding, read_embedding
from nmfbench.perturbation.fold import Fold
from nmfbench.perturbation.models import save_checkpoint, save_predictions
from nmfbench.perturbation.predictors import predictor_of
from nmfbench.perturbation.sums import Sums, read_sums

if TYPE_CHECKING:
    from nmfbench.perturbation.nb_glm.batches import TrainingCells

log = logging.getLogger(__name__)


def fit_predictor(
    sums: str,
    embedding: str | None,
    *,
    model: str,
    history: str,
    record: str,
    kind: str,
    name: str,
    settings: Mapping[str, Any],
    seed: int,
    device: str,
    run: Job,
    also: list[str] | None = None,
    filtered: str | None = None,
    split: str | None = None,
    screen: Mapping[str, Any] | None = None,
) -> None:
    """Fit a predictor to the training cells of each fold.

    Parameters
    ----------
    sums, embedding : str
        Files of the split; no embedding for a predictor without one.
    model, history, record : str
        What is written: ``model.npz`` or ``model.pt``, a row for each step, ``run.json``.
    kind, name : str
        The registered predictor and its name in the config.
    settings : mapping
    seed : int
    device : str
    run : Job
        Threads and stop signals.
    also : list of str, optional
        Targets to predict from all cells, for a split that holds nothing out.
    filtered, split, screen : optional
        The cells, for ``fit_mode: whole``.
    """
    started = time.monotonic()
    gathered = read_sums(sums)
    vectors = None if embedding is None else read_embedding(embedding)
    published = settings.get("statistics") == "published"
    statistics = published_control_statistics(gathered) if published else control_statistics(gathered)
    background = Background.of(gathered, statistics)
    folds = folds_of(gathered, background, vectors, also)
    folder = Path(model).parent / "checkpoint"
    fitted = None
    if kind == "nb_glm":
        fitted = _nb_glm(settings, seed, device, run, folder, name, gathered, filtered, split, screen)
    predictor = predictor_of(kind)(settings) if fitted is None else fitted
    predictions = []
    for fold in folds:
        predictions.append(predictor.predict(fold, log.info))
        if run.stop_requested():
            from nmfbench.job import Interrupted

            raise Interrupted(f"after fold {fold.number} of {len(folds)}")
    if fitted is None:
        save_predictions(model, background, folds, predictions)
        rows = []
    else:
        save_checkpoint(model, background, predictor, predictions, gathered.fingerprint())
        rows = predictor.history
    _write_history(rows, history)
    flags = {
        target: flag
        for prediction in predictions
        for target, flag in zip(prediction.names, prediction.flags, strict=True)
        if flag
    }
    write_json(
        record,
        {
            "predictor": name,
            "kind": kind,
            "parameters": dict(settings),
            "seed": seed,
            "device": _device_used(kind, device, settings),
            "folds": len(folds),
            "chosen": _chosen(predictor),
            "flags": flags,
            "data_fingerprint": gathered.fingerprint(),
            "target_sum": gathered.target_sum,
            "ref_depth": gathered.ref_depth,
            "seconds": time.monotonic() - started,
            "peak_mb": peak_mb(),
            "versions": versions(),
            "commit": commit(),
        },
    )
    shutil.rmtree(folder, ignore_errors=True)


def folds_of(
    sums: Sums, background: Background, embedding: Embedding | None, also: list[str] | None = None
) -> list[Fold]:
    """The folds of a split with the targets held out in each; one of all cells where nothing is held out."""
    if sums.n_folds == 0:
        return [Fold(sums, background, embedding, -1, list(also or []))]
    folds = []
    for number in range(sums.n_folds):
        asked = np.unique(sums.target[sums.held_out(number)])
        if len(asked):
            names = [str(sums.targets[target]) for target in asked]
            folds.append(Fold(sums, background, embedding, number, names))
    return folds


def _nb_glm(settings, seed, device, run, folder, name, sums, filtered, split, screen):
    """The NB-GLM with the checkpoints and cells that a job gives it."""
    from nmfbench.fitting.checkpoint import Checkpoint
    from nmfbench.perturbation.predictors.nb_glm import is_bilinear

    where = "cpu"
    if not is_bilinear(settings):
        from nmfbench.device import resolve_device

        where = str(resolve_device(device))

    def checkpoint(fold: Fold) -> Checkpoint:
        trajectory = {**settings, "seed": seed, "fold": fold.number, "predictor": name}
        return Checkpoint(folder / f"fold-{fold.number}", trajectory, sums.fingerprint())

    return predictor_of("nb_glm")(
        settings, seed=seed, device=where, checkpoint=checkpoint, stop=run.stop_requested,
        cells=None if filtered is None else cells_of(filtered, split, screen, sums),
    )  # fmt: skip


def cells_of(filtered: str, split: str, screen: Mapping[str, Any], sums: Sums) -> Callable:
    """A function that gives the training cells of a fold, for ``fit_mode: whole``."""
    from nmfbench.perturbation.screen import read_screen
    from nmfbench.perturbation.splits import read_split

    def training_cells(fold: Fold) -> TrainingCells:
        from scipy import sparse

        from nmfbench.perturbation.nb_glm.batches import TrainingCells

        cells, roles = read_screen(filtered, screen), read_split(split)
        mine = (cells.codes >= 0) & (roles.fold >= -1) & (roles.fold != fold.number)
        parts = [
            block[np.flatnonzero(mine[start : start + block.shape[0]])]
            for start, block in cells.counts.blocks()
        ]
        size = np.maximum(roles.totals[mine] / sums.ref_depth, 1e-8)
        target = np.searchsorted(fold.trained.target, cells.codes[mine])
        return TrainingCells(sparse.vstack(parts, format="csr"), target, roles.phase[mine], size)

    return training_cells


def _write_history(rows: list[dict[str, Any]], path: str) -> None:
    import pandas as pd

    from nmfbench.tables.files import write_table

    write_table(pd.DataFrame(rows, columns=list(rows[0]) if rows else ["fold", "epoch", "objective"]), path)


def _device_used(kind: str, device: str, settings: Mapping[str, Any]) -> str:
    if kind != "nb_glm":
        return "cpu"
    from nmfbench.perturbation.predictors.nb_glm import is_bilinear

    if is_bilinear(dict(settings)):
        return "cpu"
    from nmfbench.device import resolve_device

    return str(resolve_device(device))


def _chosen(predictor: Any) -> list[dict[str, Any]]:
    """Of each fold: penalty and shrinkage where they were chosen, and the share of changes at the bound."""
    keys = ("fold", "penalty_K", "shrinkage", "at_bound")
    return [{key: fold[key] for key in keys if key in fold} for fold in getattr(predictor, "folds", [])]
