"""Fits that never saw a group of donors, and how well labels are predicted in those donors by them.

Each group of donors is left out of one more fit of a model (same rank, settings, training seed), which then
embeds all cells by its ``transform``: those it learnt from too, so that the classifier meets new cells as it
met the others. The autoencoders begin from sums over groups of donors, gathered once for all of them; other
models are fitted to the cells.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nmfbench.errors import NotApplicable
from nmfbench.metrics.donor_folds import DonorCells, DonorSplit, cells_by_donor
from nmfbench.metrics.donors_held_out import HeldOutTables, score_split
from nmfbench.refits import Fits

if TYPE_CHECKING:
    from nmfbench.job import Job

log = logging.getLogger(__name__)

SPLITTER = "groups of donors"


def transfer_to_donors(
    filtered: str,
    *,
    kind: str,
    settings: Mapping[str, Any],
    rank: int,
    seed: int,
    device: str,
    normalisation: Mapping[str, Any],
    condition_columns: Sequence[str],
    labels: Sequence[str],
    asked: Mapping[str, Any],
    run: Job,
    scratch: str | Path,
    statistics: Sequence[str] = (),
    gene_scaling: str = "none",
) -> HeldOutTables:
    """Fit a model without each group of donors, and predict labels in that group.

    Parameters
    ----------
    filtered : str
        The filtered counts.
    kind, settings, rank, seed, device, normalisation, condition_columns, gene_scaling
        As in :func:`nmfbench.train.train`; genes are scaled by the cells of the other donors.
    labels : sequence of str
        Labels to predict, none of them the donor.
    asked : mapping
        ``groups``, ``classifiers``, ``min_cells`` and ``min_donors`` of the section ``donor_transfer``.
    run : Job
        Threads and stop signals.
    scratch : path
        Folder for the checkpoints of the fits; removed at the end.
    statistics : sequence of str, optional
        For an autoencoder: statistics of the cells of all donors but those of each group, in their order.

    Returns
    -------
    HeldOutTables
        ``fold`` is the group. A label that has no meaning for these donors has a row that says so.

    Raises
    ------
    NotApplicable
        There is one donor, or the model cannot embed cells of others.
    InputError
        The data cannot carry such a fit.
    Interrupted
        The job was told to stop; the fit goes on from its checkpoint.
    """
    from nmfbench.data import read_filtered
    from nmfbench.data.donor_groups import deal_donors
    from nmfbench.models import get_card

    card = get_card(kind)
    if card.normalises:
        settings = {**settings, **normalisation}
    data = read_filtered(filtered)
    donors = data.label("donor_id")
    groups = deal_donors(donors, asked["groups"])
    if groups.max() < 1:
        raise NotApplicable(
            "held-out donors", "two or more donors", "one of them",
            "score data of several donors, or leave donor_transfer out",
        )  # fmt: skip
    fits = Fits(
        data,
        card,
        normalisation,
        condition_columns,
        {"rank": rank, "settings": settings, "seed": seed, "device": device},
        run,
        Path(scratch),
        gene_scaling=gene_scaling,
    )
    found = []
    for group in range(int(groups.max()) + 1):
        log.info("group %d of %d: %d cells left out", group + 1, groups.max() + 1, (groups == group).sum())
        given = statistics[group] if statistics else None
        found.append(fits.embed_without(group, groups != group, given))
    tables = HeldOutTables([], [], [])
    for label in labels:
        _score_label(found, data.label(label), donors, groups, label, asked, seed, run.threads, tables)
    shutil.rmtree(scratch, ignore_errors=True)
    return tables


def _score_label(found, y, donors, groups, label, asked, seed, n_jobs, tables: HeldOutTables) -> None:
    try:
        held = cells_by_donor(y, donors, least_cells=asked["min_cells"], least_donors=asked["min_donors"])
        split, used = split_groups(held, groups[held.cells])
    except NotApplicable as error:
        log.warning("%s: %s", label, error.reason)
        row = {"label": label, "cv_seed": seed, "classifier": ""}
        tables.scores.append(row | {"status": "not applicable", "message": error.reason})
        return
    score_split(
        lambda fold: found[used[fold]][held.cells], held, split, tables,
        label=label, seed=seed, classifiers=asked["classifiers"], n_jobs=n_jobs,
    )  # fmt: skip


def split_groups(held: DonorCells, groups: np.ndarray) -> tuple[DonorSplit, list[int]]:
    """The groups as folds of the cells that are scored, and which group each fold is.

    A group without such cells is no fold; neither is one that leaves a single class to learn from.
    """
    folds, used = [], []
    for group in np.unique(groups):
        train, test = np.flatnonzero(groups != group), np.flatnonzero(groups == group)
        if np.unique(held.codes[train]).size >= 2:
            folds.append((train, test))
            used.append(int(group))
    if not folds:
        raise NotApplicable(
            "held-out donors: groups", "two classes to learn from", "one, whichever group is left out",
            "score data of more donors",
        )  # fmt: skip
    return DonorSplit(tuple(folds), SPLITTER), used
