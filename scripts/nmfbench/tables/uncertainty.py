"""Tables of intervals and of differences between models, from scores, folds and counts."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nmfbench.metrics import CLASSIFICATION_METRICS
from nmfbench.metrics.contingency import adjusted_rand_index, mutual_information, prediction_scores
from nmfbench.metrics.uncertainty import (
    Interval,
    corrected_resampled_t,
    donor_interval,
    holm,
    seed_interval,
    welch,
)
from nmfbench.tables.cells import CELLS, on_other_cells, with_cells
from nmfbench.tables.files import read_table
from nmfbench.tables.runs import Cell, classification_path, run_folder, try_read

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

INTERVAL_COLUMNS = (
    *("dataset", "model", "rank", "label", "metric", "classifier", "unit"),
    *("value", "low", "high", "n", "method", *CELLS),
)
COMPARISON_COLUMNS = (
    *("dataset", "rank", "label", "metric", "classifier", "unit", "model", "other"),
    *("difference", "low", "high", "t", "df", "p", "p_holm", "n", "method"),
)
SEEDS, FOLDS, DONORS = "training seed", "fold", "donor"
MEAN = "mean"  # over the classifiers, within a fold

UNTESTED = dict.fromkeys(("difference", "low", "high", "t", "df", "p"), np.nan) | {
    "method": "none: not scored on the same cells"
}

_CLUSTER_SCORES = {"ARI": adjusted_rand_index, "NMI": mutual_information}
_COUNT_SCORES = ("F1", "Precision", "Accuracy", "Recall")  # AUROC is no score of counts


def intervals(
    scores: pd.DataFrame, grid: Sequence[Cell], directory: str | Path, *, replicates: int, seed: int
) -> pd.DataFrame:
    """Every score of every model with its interval over training seeds, and over donors.

    Parameters
    ----------
    scores : DataFrame
        scores.tsv of one dataset.
    grid : sequence of mapping
        Its expected runs.
    directory : path
        Folder above the datasets.
    replicates, seed : int
        Of the bootstrap over donors.

    Returns
    -------
    DataFrame
        Columns :data:`INTERVAL_COLUMNS`. Rows of unit ``training seed`` are of the scores as scores.tsv has
        them; those of unit ``donor`` of the pooled counts of all test cells, for each classifier and for
        their mean. There are none for the donor as the label, which a draw of donors changes itself.
    """
    import pandas as pd

    rows = []
    for key, group in scores.groupby(["dataset", "model", "rank", "label", "metric"], sort=False):
        rows.append(_interval_row(*key, "", SEEDS, seed_interval(group["value"])))
    for (model, rank), cells in _models(grid).items():
        for label in cells[0]["labels"]:
            if label != "donor_id":
                found = [
                    *_cluster_intervals(cells, label, directory, replicates, seed),
                    *_class_intervals(cells, label, directory, replicates, seed),
                ]
                dataset = cells[0]["dataset"]
                rows += [
                    _interval_row(dataset, model, rank, label, metric, classifier, DONORS, interval)
                    for metric, classifier, interval in found
                ]
        logger.info("%s, rank %s: intervals over donors", model, rank)
    return with_cells(pd.DataFrame(rows, columns=list(INTERVAL_COLUMNS[: -len(CELLS)])), scores)


def _interval_row(
    dataset, model, rank, label, metric, classifier, unit, interval: Interval
) -> dict[str, Any]:
    run = {"dataset": dataset, "model": model, "rank": rank, "label": label, "metric": metric}
    return run | {"classifier": classifier, "unit": unit} | vars(interval)


def _models(grid: Sequence[Cell]) -> dict[tuple[str, int], list[Cell]]:
    """The runs of each model and rank, one for each training seed."""
    found: dict[tuple[str, int], list[Cell]] = {}
    for cell in grid:
        found.setdefault((cell["model"], cell["rank"]), []).append(cell)
    return found


def _cluster_intervals(cells, label, directory, replicates, seed):
    """ARI and NMI over donors, of the fits that are there."""
    frames = []
    for cell in cells:
        table, _ = try_read(run_folder(cell, directory) / "cluster_counts.tsv.gz", _read_counts)
        if table is not None and len(table := table[table["label"] == label]):
            frames.append(table)
    if not frames:
        return
    donors, true = (_levels(frames, column) for column in ("donor", "true"))
    fits = [
        [_table(part, donors, true, None) for _, part in frame.groupby("leiden_seed", sort=True)]
        for frame in frames
    ]
    for metric, score in _CLUSTER_SCORES.items():
        yield metric, "", donor_interval(fits, score, replicates=replicates, seed=seed)


def _class_intervals(cells, label, directory, replicates, seed):
    """Scores of the predicted classes over donors, for each classifier."""
    import pandas as pd

    frames = []
    for cell in cells:
        parts = []
        for cv_seed in cell["cv_seeds"]:
            path = classification_path(cell, directory, label, cv_seed)
            table, _ = try_read(path.with_name(f"{path.stem}-counts.tsv.gz"), _read_counts)
            if table is not None:
                parts.append(table.assign(cv_seed=cv_seed))
        if parts:
            frames.append(pd.concat(parts, ignore_index=True))
    if not frames:
        return
    donors = _levels(frames, "donor")
    classes = sorted({*_levels(frames, "true"), *_levels(frames, "predicted")})
    classifiers = list(dict.fromkeys(name for frame in frames for name in frame["classifier"]))
    for classifier in classifiers:
        fits = [
            [
                _table(part, donors, classes, classes)
                for _, part in frame[frame["classifier"] == classifier].groupby("cv_seed", sort=True)
            ]
            for frame in frames
        ]
        fits = [fit for fit in fits if fit]
        for metric in _COUNT_SCORES:

            def score(tables, metric=metric):
                return prediction_scores(tables)[metric]

            yield metric, classifier, donor_interval(fits, score, replicates=replicates, seed=seed)


def _read_counts(path: Path) -> pd.DataFrame:
    return read_table(path, text=("label", "donor", "true", "predicted", "classifier"))


def _levels(frames: Sequence[pd.DataFrame], column: str) -> list[str]:
    return sorted({value for frame in frames for value in frame[column].unique()})


def _table(part: pd.DataFrame, donors: list[str], true: list[str], found: list[str] | None) -> np.ndarray:
    """Counts as an array of donors x true x found; clusters are numbered, classes have names."""

    def numbers(column, names):
        place = {name: number for number, name in enumerate(names)}
        return part[column].map(place).to_numpy()

    last = part["cluster"].to_numpy(int) if found is None else numbers("predicted", found)
    n_found = int(last.max()) + 1 if found is None else len(found)
    table = np.zeros((len(donors), len(true), n_found))
    np.add.at(table, (numbers("donor", donors), numbers("true", true), last), part["n"].to_numpy())
    return table


def comparisons(scores: pd.DataFrame, folds: pd.DataFrame, grid: Sequence[Cell]) -> pd.DataFrame:
    """Differences of every two models, tested over folds and over training seeds.

    Parameters
    ----------
    scores, folds : DataFrame
        scores.tsv and folds.tsv of one dataset.
    grid : sequence of mapping
        Its expected runs; controls are not compared.

    Returns
    -------
    DataFrame
        Columns :data:`COMPARISON_COLUMNS`; ``difference`` is ``model`` less ``other``. Unit ``fold``: the
        first training seed of both, by classifier and for the mean over classifiers within a fold.
        ``p_holm`` is adjusted for all pairs of the same rank, label, metric, classifier and unit. A model
        that was scored on fewer cells than the dataset has is compared with none: folds and scores are of
        other cells.
    """
    import pandas as pd

    rows = []
    compared = {key: cells for key, cells in _models(grid).items() if cells[0].get("role") != "control"}
    for rank in dict.fromkeys(rank for _, rank in compared):
        models = [model for model, r in compared if r == rank]
        for first, second in itertools.combinations(models, 2):
            seeds = compared[first, rank][0]["seed"], compared[second, rank][0]["seed"]
            sides = [
                folds[(folds["model"] == m) & (folds["rank"] == rank) & (folds["seed"] == s)]
                for m, s in zip((first, second), seeds, strict=True)
            ]
            untested = on_other_cells(scores, rank, (first, second))
            for found in (*_over_folds(*sides), *_over_seeds(scores, rank, first, second)):
                row = {"rank": rank, "model": first, "other": second} | found
                rows.append(row | UNTESTED if untested else row)
    table = pd.DataFrame(rows, columns=list(COMPARISON_COLUMNS))
    table["dataset"] = grid[0]["dataset"] if grid else ""
    family = ["rank", "label", "metric", "classifier", "unit"]
    for _, group in table.groupby(family, sort=False, dropna=False):
        table.loc[group.index, "p_holm"] = holm(group["p"])
    return table


def _over_folds(first: pd.DataFrame, second: pd.DataFrame):
    """Both models on the same folds."""
    keys = ["label", "cv_seed", "fold", "classifier"]
    both = first[first["status"] == "ok"].merge(second[second["status"] == "ok"], on=keys)
    if both.empty:
        return
    for metric in CLASSIFICATION_METRICS:
        both[metric] = both[f"{metric}_x"] - both[f"{metric}_y"]
    both["share"] = both["n_test_x"] / both["n_train_x"]
    for label, mine in both.groupby("label", sort=False):
        # the mean over classifiers of a fold that all have: 25 values, not 75 of which three go together
        there = mine.groupby(["cv_seed", "fold"])["classifier"].transform("count")
        whole = mine[there == mine["classifier"].nunique()]
        means = whole.groupby(["cv_seed", "fold"], as_index=False)[[*CLASSIFICATION_METRICS, "share"]].mean()
        groups = [(MEAN, means), *mine.groupby("classifier", sort=False)]
        for classifier, group in groups:
            for metric in CLASSIFICATION_METRICS:
                tested = corrected_resampled_t(group[metric], float(group["share"].mean()))
                yield {"label": label, "metric": metric, "classifier": classifier, "unit": FOLDS} | vars(
                    tested
                )


def _over_seeds(scores: pd.DataFrame, rank: int, first: str, second: str):
    """Both models over their training seeds."""
    here = scores[(scores["rank"] == rank) & scores["model"].isin([first, second])]
    for (label, metric), group in here.groupby(["label", "metric"], sort=False):
        values: Mapping[str, Any] = dict(list(group.groupby("model")["value"]))
        if len(values) == 2:
            tested = welch(values[first], values[second])
            yield {"label": label, "metric": metric, "classifier": "", "unit": SEEDS} | vars(tested)
