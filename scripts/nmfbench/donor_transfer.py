"""Fits that never saw a group of donors, and how well labels are predicted in those donors by them.

Each group of donors is left out of one more fit of a model (same rank, settings, training seed), which then
embeds all cells by its ``transform``: those it learnt from too, so that the classifier meets new cells as it
met the others. The autoencoders begin from sums over groups of donors, gathered once for all of them; other
models are fitted to the cells.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nmfbench.endings import Interrupted
from nmfbench.errors import InputError, NotApplicable
from nmfbench.metrics.donor_folds import DonorCells, DonorSplit, cells_by_donor
from nmfbench.metrics.donors_held_out import HeldOutTables, score_split

if TYPE_CHECKING:
    import pandas as pd

    from nmfbench.data.filtered import FilteredCounts
    from nmfbench.job import Job
    from nmfbench.models.card import ModelCard

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
) -> HeldOutTables:
    """Fit a model without each group of donors, and predict labels in that group.

    Parameters
    ----------
    filtered : str
        The filtered counts.
    kind, settings, rank, seed, device, normalisation, condition_columns
        As in :func:`nmfbench.train.train`.
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
    from nmfbench.data import AS_COUNTED, read_filtered
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
        dict(normalisation) if card.input == "normalised" else AS_COUNTED,
        condition_columns,
        {"rank": rank, "settings": settings, "seed": seed, "device": device},
        run,
        Path(scratch),
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


class Fits:
    """Fits of one model, each without some cells, that embed all of them."""

    def __init__(
        self,
        data: FilteredCounts,
        card: ModelCard,
        normalisation: Mapping[str, Any],
        condition_columns: Sequence[str],
        fit: Mapping[str, Any],
        run: Job,
        scratch: Path,
        values: Any = None,
    ) -> None:
        self.data, self.card, self.normalisation = data, card, normalisation
        self.columns, self.fit, self.run, self.scratch = condition_columns, fit, run, scratch
        self._values = values

    @property
    def values(self):
        """All cells as the model takes them, in memory; read once."""
        from nmfbench.data.filtered import load_normalised

        if self._values is None:
            self._values = load_normalised(self.data.path, **self.normalisation)
        return self._values

    def embed_without(self, group: int, known: np.ndarray, statistics: str | None) -> np.ndarray:
        """Embedding of all cells (cells x k, float32) by a fit to those that are `known`."""
        model = self.fit_without(group, known, statistics)
        return np.vstack(list(self._embed(model, statistics is not None)))

    def fit_without(self, group: int, known: np.ndarray, statistics: str | None) -> Any:
        """The estimator, fitted to the cells that are `known`."""
        from threadpoolctl import threadpool_limits

        from nmfbench.train import _model

        n = int(known.sum())
        if self.fit["rank"] > min(n, self.data.n_genes):
            raise InputError(
                f"{self.data.path}: rank {self.fit['rank']} without group {group} of the donors",
                f"a rank of at most {min(n, self.data.n_genes)}", f"{n} cells x {self.data.n_genes} genes",
                "lower `ranks`, or raise donor_transfer.groups so that fewer cells are left out",
            )  # fmt: skip
        model = _model(
            self.card, self.fit["rank"], self.fit["settings"], self.fit["seed"], self.fit["device"]
        )
        around = {"checkpoint": self.scratch / f"group-{group}", "progress": False}
        around |= {"should_stop": self.run.stop_requested}
        around["checkpoint"].parent.mkdir(parents=True, exist_ok=True)
        with threadpool_limits(self.run.threads):
            if statistics is not None:
                _fit_statistics(model, statistics, self.data, self.normalisation, around)
            else:
                self._fit_cells(model, known, around)
            if model.stop_reason_ == "interrupted":
                raise Interrupted("its state is kept; run the same command again to go on")
        return model

    def _fit_cells(self, model: Any, known: np.ndarray, around: dict[str, Any]) -> None:
        from nmfbench.rows.memory import InMemoryRows

        rows, data = self.values[known], self.data
        conditions = self._labels(known) if self.card.conditional else None
        labels: dict[str, Any] = {"conditions": conditions, "strata": data.label("cell_type")[known]}
        if getattr(model, "multigroup", False):
            labels["groups"] = self._labels(known).astype(str).agg(" ".join, axis=1)
        if hasattr(model, "fit_rows"):
            model.fit_rows(InMemoryRows(rows), **labels, **around)
            return
        if "coordinates" in self.card.needs:
            labels["coordinates"] = data.coordinates[known]
        if "names" in self.card.needs:
            labels |= {"cell_names": data.obs.index[known], "gene_names": data.var.index}
        if "tables" in self.card.needs:
            labels |= {"obs": data.obs[known], "var": data.var}
        model.fit(rows, **labels, **around)

    def _labels(self, known: np.ndarray) -> pd.DataFrame:
        import pandas as pd

        # the codes of donors that were left out stand for nobody
        columns = {name: self.data.label(name)[known].remove_unused_categories() for name in self.columns}
        return pd.DataFrame(columns)

    def _embed(self, model: Any, on_disk: bool) -> Iterator[np.ndarray]:
        from nmfbench.models.autoencoder.embed import times_blocks
        from nmfbench.rows.disk import FilteredRows
        from nmfbench.rows.memory import BLOCK_ROWS

        if on_disk:
            rows = FilteredRows(self.data, self.normalisation)
            for _, H in times_blocks(model.components_, rows, BLOCK_ROWS):
                yield np.asarray(H, dtype=np.float32)
            return
        factors = model.n_components_
        for start in range(0, self.data.n_cells, BLOCK_ROWS):
            try:
                H = model.transform(self.values[start : start + BLOCK_ROWS])
            except InputError as error:
                raise NotApplicable(
                    f"{type(model).__name__}: cells of other donors", error.expected, error.got, error.remedy
                ) from error
            # constant patterns of cells stand before the factors and are not scored
            yield np.asarray(H[:, H.shape[1] - factors :], dtype=np.float32)


def _fit_statistics(model, path: str, data: FilteredCounts, normalisation, around: dict[str, Any]) -> None:
    from nmfbench.statistics.store import load

    statistics = load(path, memory_map=True)
    wanted = {"fingerprint": data.fingerprint, "normalisation": dict(normalisation)}
    for name, value in wanted.items():
        if getattr(statistics.layout, name) != value:
            raise InputError(
                f"{path}: {name}", str(value), str(getattr(statistics.layout, name)),
                "gather the statistics of the present data and settings: delete the file and run again",
            )  # fmt: skip
    model.fit_statistics(statistics.of_present(), **around)
