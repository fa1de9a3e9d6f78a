"""What scores begin from: labels as codes, a checked and a z-scored embedding, samples in proportion."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from nmfbench.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)


def encode_labels(labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Turn labels of any kind into codes of their text.

    Parameters
    ----------
    labels : sequence of shape (n_cells,)
        Text, numbers or a categorical; missing values are allowed.

    Returns
    -------
    codes : ndarray of int64, shape (n_cells,)
        Position of each cell's class in `classes`, -1 where the label is missing.
    classes : ndarray of object (str), shape (n_classes,)
        Classes that occur, sorted as text. Unused categories do not occur.
    """
    import pandas as pd

    if isinstance(getattr(labels, "dtype", None), pd.CategoricalDtype):
        return _encode_categories(pd.Categorical(labels))
    # object first: a categorical that keeps numeric categories would otherwise stay one
    values = pd.Series(labels).reset_index(drop=True).astype(object)
    known = values.notna().to_numpy()
    codes = np.full(len(values), -1, dtype=np.int64)
    found, classes = pd.factorize(values[known].astype(str), sort=True)
    codes[known] = found
    return codes, np.asarray(classes, dtype=object)


def _encode_categories(labels: pd.Categorical) -> tuple[np.ndarray, np.ndarray]:
    """The same from the codes that are there: no text is made for every cell."""
    words = [str(word) for word in labels.categories.astype(object)]
    occur = np.bincount(labels.codes[labels.codes >= 0], minlength=len(words)) > 0
    classes = sorted({word for word, there in zip(words, occur, strict=True) if there})
    position = {word: place for place, word in enumerate(classes)}
    places = np.array([position.get(word, -1) for word in words] + [-1], dtype=np.int64)  # the last: missing
    return places[labels.codes], np.asarray(classes, dtype=object)


def check_embedding(H: Any, n_labels: int | None = None) -> np.ndarray:
    """Return the embedding as a C-contiguous float array, or say what is wrong with it.

    Parameters
    ----------
    H : array-like of shape (n_cells, k)
        Embedding. float32 and float64 are kept, anything else becomes float32.
    n_labels : int, optional
        Number of labels that go with it.

    Raises
    ------
    InputError
        If it is not a finite matrix with a row for each label.
    """
    H = np.asarray(H)
    H = np.ascontiguousarray(H, dtype=H.dtype if H.dtype in (np.float32, np.float64) else np.float32)
    if H.ndim != 2 or 0 in H.shape:
        raise InputError(
            "embedding",
            "a matrix of cells x factors",
            f"shape {H.shape}",
            "check the training run that wrote it",
        )
    if n_labels is not None and n_labels != H.shape[0]:
        raise InputError(
            "embedding and labels",
            f"one label for each of the {H.shape[0]} cells",
            f"{n_labels} labels",
            "take labels and embedding from the same result.h5ad",
        )
    if not np.isfinite(H).all():
        bad = int((~np.isfinite(H)).any(axis=1).sum())
        raise InputError(
            "embedding",
            "finite values",
            f"NaN or infinite values in {bad} of {H.shape[0]} cells",
            "look at the objective in history.tsv: the training diverged; lower the step size",
        )
    return H


def scale_embedding(H: Any) -> tuple[np.ndarray, list[str]]:
    """Give every factor mean 0 and standard deviation 1.

    Parameters
    ----------
    H : array-like of shape (n_cells, k)
        Embedding.

    Returns
    -------
    scaled : ndarray of float32, shape (n_cells, k)
        A factor that has the same value in all cells becomes 0, never NaN.
    warnings : list of str
        Which factors those were.
    """
    H = check_embedding(H)
    constant = H.max(axis=0) == H.min(axis=0)
    std = H.std(axis=0, dtype=np.float64)
    std[constant] = 1.0
    scaled = ((H - H.mean(axis=0, dtype=np.float64)) / std).astype(np.float32)
    scaled[:, constant] = 0.0
    messages = []
    if constant.any():
        numbers = ", ".join(map(str, np.flatnonzero(constant)[:20]))
        messages.append(
            f"{int(constant.sum())} of {H.shape[1]} factors have one value in all cells and do not count "
            f"(factors {numbers}{', ...' if constant.sum() > 20 else ''})"
        )
    for message in messages:
        logger.warning("%s", message)
    return scaled, messages


def stratified_sample(codes: np.ndarray, n_cells: int, *, seed: int, minimum: int = 0) -> np.ndarray:
    """Draw cells so that the classes keep their proportions.

    Parameters
    ----------
    codes : ndarray of int, shape (n_cells_total,)
        Class of each cell, 0 .. n_classes - 1.
    n_cells : int
        Number of cells wanted. All cells are returned when there are no more than that.
    seed : int
        Seed of the draw.
    minimum : int
        Cells kept of each class at least, as far as the class has them. This can bring the total
        above `n_cells`.

    Returns
    -------
    ndarray of int64
        Positions of the cells drawn, ascending.
    """
    codes = np.asarray(codes)
    if n_cells >= codes.size:
        return np.arange(codes.size)
    sizes = np.bincount(codes)
    share = n_cells * sizes / codes.size
    quota = np.floor(share).astype(np.int64)
    # largest remainders get the cells that rounding down left over
    rest = n_cells - int(quota.sum())
    quota[np.argsort(quota - share, kind="stable")[:rest]] += 1
    quota = np.maximum(quota, np.minimum(sizes, minimum))

    rng = np.random.default_rng(seed)
    by_class = np.split(np.argsort(codes, kind="stable"), np.cumsum(sizes)[:-1])
    drawn = [rng.choice(cells, size=n, replace=False) for cells, n in zip(by_class, quota, strict=True)]
    return np.sort(np.concatenate(drawn))
