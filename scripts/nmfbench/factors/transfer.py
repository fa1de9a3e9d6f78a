"""Labels of new cells from their nearest neighbours among the cells of a fit, with a confidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

N_NEIGHBOURS = 15
_QUERY_ROWS = 4096
_MOST_FOR_DISTANCES = 5000


class NeighbourLabels:
    """The labelled cells of a fit, to look new ones up among.

    Factors are standardised by the mean and standard deviation of the fit's cells, as for the scores.

    Parameters
    ----------
    H : ndarray of shape (n, k)
        Embedding of the fit's cells, made as that of the new cells is.
    labels : mapping of str to (codes, classes)
        Labels of the fit's cells; code -1 for none.
    n_neighbours : int
    n_jobs : int
    """

    def __init__(
        self,
        H: np.ndarray,
        labels: Mapping[str, tuple[np.ndarray, np.ndarray]],
        n_neighbours: int = N_NEIGHBOURS,
        n_jobs: int = 1,
    ) -> None:
        from sklearn.neighbors import NearestNeighbors

        H = np.asarray(H, dtype=np.float64)
        self.mean = H.mean(axis=0)
        sd = H.std(axis=0)
        self.sd = np.where(sd > 1e-6 * np.sqrt(np.square(H).mean(axis=0)), sd, np.inf)
        self.labels = labels
        self.k = min(n_neighbours, len(H) - 1) or 1
        scaled = self._scaled(H)
        self.search = NearestNeighbors(n_neighbors=self.k, algorithm="brute", n_jobs=n_jobs).fit(scaled)
        # how far a cell of the fit lies from its own neighbours: what is usual
        chosen = np.linspace(0, len(H) - 1, min(len(H), _MOST_FOR_DISTANCES)).astype(int)
        n_found = min(self.k + 1, len(H))
        distances = self.search.kneighbors(scaled[chosen], n_found)[0]
        self.usual = np.sort(distances[:, 1:].mean(axis=1)) if n_found > 1 else np.zeros(1)

    def look_up(self, H: np.ndarray) -> pd.DataFrame:
        """A row for each new cell.

        Returns
        -------
        DataFrame
            For each label ``{label}_transferred``, the class with the largest vote of the neighbours, a
            neighbour's vote being 1 over its distance, and ``{label}_confidence``, its share of the votes;
            ``distance``, the mean distance to the neighbours, and ``unusual``, the share of the fit's own
            cells that lie nearer to theirs: close to 1 for cells unlike any of the fit.
        """
        import pandas as pd

        columns: dict[str, list[Any]] = {}
        for start in range(0, len(H), _QUERY_ROWS):
            distances, indices = self.search.kneighbors(self._scaled(H[start : start + _QUERY_ROWS]))
            votes = 1 / np.maximum(distances, 1e-8)
            for name, (codes, classes) in self.labels.items():
                winner, confidence = _vote(codes[indices], votes, len(classes))
                found = np.append(classes.astype(object), None)[winner]
                columns.setdefault(f"{name}_transferred", []).append(found)
                columns.setdefault(f"{name}_confidence", []).append(confidence)
            mean = distances.mean(axis=1)
            columns.setdefault("distance", []).append(mean)
            unusual = np.searchsorted(self.usual, mean) / len(self.usual)
            columns.setdefault("unusual", []).append(unusual)
        return pd.DataFrame({name: np.concatenate(parts) for name, parts in columns.items()})

    def _scaled(self, H: np.ndarray) -> np.ndarray:
        return ((np.asarray(H, dtype=np.float64) - self.mean) / self.sd).astype(np.float32)


def _vote(codes: np.ndarray, votes: np.ndarray, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The class with most votes (-1 where no neighbour has one) and its share, for each row."""
    rows, tally = np.arange(len(codes)), np.zeros((len(codes), n_classes + 1))
    for column in range(codes.shape[1]):
        tally[rows, codes[:, column]] += votes[:, column]  # code -1: the last, for no label
    if not n_classes:
        return np.full(len(codes), -1), np.zeros(len(codes))
    tally = tally[:, :n_classes]
    total = tally.sum(axis=1)
    winner = np.where(total > 0, tally.argmax(axis=1), -1)
    share = np.divide(tally[rows, winner], total, out=np.zeros(len(codes)), where=total > 0)
    return winner, share


@dataclass(frozen=True)
class TransferScore:
    """How transferred labels agree with known ones; macro means over classes that the fit has."""

    n_cells: int
    n_classes: int
    unseen_cells: float
    accuracy: float
    F1: float
    recall: float
    precision: float


def score_transfer(known: np.ndarray, transferred: np.ndarray, classes: np.ndarray) -> TransferScore:
    """Hold transferred labels against known ones.

    Parameters
    ----------
    known, transferred : array-like of shape (n,)
        Known labels (None or NaN where there is none) and those transferred.
    classes : array-like of str
        Classes of the fit: cells of other classes cannot be right. They count as wrong in the accuracy and
        are reported as ``unseen_cells``, a share.
    """
    from sklearn.metrics import precision_recall_fscore_support

    known, transferred = np.asarray(known, dtype=object), np.asarray(transferred, dtype=object)
    there = np.array([value is not None and value == value for value in known], dtype=bool)
    truth, found = known[there].astype(str), transferred[there].astype(str)
    if not len(truth):
        return TransferScore(0, 0, *[float("nan")] * 5)
    seen = [name for name in np.unique(truth) if name in set(map(str, classes))]
    nan = float("nan")
    precision, recall, F1 = nan, nan, nan
    if seen:
        precision, recall, F1, _ = precision_recall_fscore_support(
            truth, found, labels=seen, average="macro", zero_division=0
        )
    unseen = float(np.mean(~np.isin(truth, seen)))
    accuracy = float(np.mean(truth == found))
    return TransferScore(len(truth), len(seen), unseen, accuracy, float(F1), float(recall), float(precision))
