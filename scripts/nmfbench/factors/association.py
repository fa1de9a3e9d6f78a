"""Which cells a factor belongs to: its association with labels, and what of it is the donor's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Classes with fewer cells are left out: their rank sums say little.
FEWEST_CELLS = 10
#: A factor is the donors' when they explain at least this share of its variance, and more than cell types do.
DONOR_SHARE = 0.1


@dataclass(frozen=True)
class Label:
    """A label of the cells.

    Attributes
    ----------
    name : str
    codes : ndarray of int32, shape (n,)
        Class of each cell, -1 where it is missing or has fewer than :data:`FEWEST_CELLS` cells.
    classes : ndarray of str
    sizes : ndarray of shape (classes,)
        Cells of each class.
    """

    name: str
    codes: np.ndarray
    classes: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, name: str, codes: np.ndarray, classes: np.ndarray, fewest: int = FEWEST_CELLS) -> Label:
        """Leave small classes out."""
        sizes = np.bincount(codes[codes >= 0], minlength=len(classes))
        kept = np.flatnonzero(sizes >= fewest)
        place = np.full(len(classes) + 1, -1, dtype=np.int32)  # the last: cells without a label
        place[kept] = np.arange(len(kept))
        return cls(name, place[codes], np.asarray(classes)[kept], sizes[kept])


def label_association(values: np.ndarray, label: Label) -> dict[str, np.ndarray | float]:
    """How one factor tells the classes of a label apart.

    Parameters
    ----------
    values : ndarray of shape (n,)
        The factor's column of the embedding.
    label : Label

    Returns
    -------
    dict
        ``auroc`` of shape (classes,): probability that a cell of the class has more of the factor than one of
        the others, ties counting half; ``mean`` of shape (classes,); ``share`` of shape (classes,): of the
        factor's sum over the labelled cells; ``eta2``: share of the factor's variance that lies between the
        classes. NaN where there are not two classes, or for a factor that is the same in every cell.
    """
    labelled = label.codes >= 0
    codes, h = label.codes[labelled], values[labelled]
    sizes = label.sizes.astype(np.float64)
    n, n_classes = len(h), len(sizes)
    undefined = np.full(n_classes, np.nan)
    if not n:
        return {"auroc": undefined, "mean": undefined, "share": undefined, "eta2": float("nan")}
    sums = np.bincount(codes, h, minlength=n_classes)
    total = sums.sum()
    share = sums / total if total else undefined
    mean, variance = sums / sizes, np.square(h - h.mean()).sum()
    if n_classes < 2 or variance <= 1e-12 * np.square(h).sum():
        return {"auroc": undefined, "mean": mean, "share": share, "eta2": float("nan")}
    ranks = np.bincount(codes, average_ranks(h), minlength=n_classes)
    auroc = (ranks - sizes * (sizes + 1) / 2) / (sizes * (n - sizes))
    between = np.sum(sizes * np.square(mean - h.mean()))
    return {"auroc": auroc, "mean": mean, "share": share, "eta2": float(between / variance)}


def average_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share the mean of theirs. As SciPy's ``rankdata``, without its import."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    stops = np.concatenate([starts[1:], [len(values)]])
    ranks = np.empty(len(values))
    ranks[order] = np.repeat((starts + stops + 1) / 2, stops - starts)
    return ranks


def variance_components(values: np.ndarray, types: Label, donors: Label) -> dict[str, float]:
    """Share of a factor's variance between cell types, and between donors within a type.

    Sums of squares of groups nested in one another, each taken less what chance gives it
    (epsilon squared): without donor effects the second is 0 on average, however many donors there are.

    Returns
    -------
    dict
        ``between_types`` and ``between_donors``, of the whole variance. NaN where no type has two donors.
    """
    both = (types.codes >= 0) & (donors.codes >= 0)
    h = values[both]
    _, group = np.unique(
        types.codes[both].astype(np.int64) * len(donors.sizes) + donors.codes[both], return_inverse=True
    )
    missing = {"between_types": float("nan"), "between_donors": float("nan")}
    if not len(h):
        return missing
    of_type = types.codes[both]
    n, n_groups, n_types = len(h), group.max() + 1, len(np.unique(of_type))
    total = np.square(h - h.mean()).sum()
    if total <= 1e-12 * np.square(h).sum() or n_groups == n_types or n == n_groups:
        return missing
    explained = [_between(h, codes) for codes in (of_type, group)]
    noise = (total - explained[1]) / (n - n_groups)
    return {
        "between_types": float((explained[0] - (n_types - 1) * noise) / total),
        "between_donors": float((explained[1] - explained[0] - (n_groups - n_types) * noise) / total),
    }


def is_donor_factor(components: dict[str, float]) -> bool:
    """Whether donors explain a factor better than cell types do, and enough of it to matter."""
    donors = components["between_donors"]
    return bool(donors >= DONOR_SHARE and donors > components["between_types"])


def _between(h: np.ndarray, codes: np.ndarray) -> float:
    """Sum of squares between groups."""
    sizes = np.bincount(codes)
    sums = np.bincount(codes, h)
    kept = sizes > 0
    return float(np.sum(sizes[kept] * np.square(sums[kept] / sizes[kept] - h.mean())))
