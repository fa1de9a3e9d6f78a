"""The parts of the scoring that a GPU does: candidates of the nearest neighbours, and logistic regression.

Neighbours are those of the CPU to the last bit: the device gives lower bounds of the squared distances, in
single precision and with what rounding may have added taken off, and what is made of them is the same code.
The regression is scikit-learn's own on torch tensors (its array API support), so that its predictions agree
but for the rounding of the gradients.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from nmfbench.errors import DeviceError, InputError

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

ROWS = 4096
ENTRIES_AT_ONCE = 2**28
"""Distances of a block of rows in memory at once: 1 GiB, and as much again for their choice."""


def scoring_device(name: str) -> torch.device | None:
    """Where `scoring_device` of a config has the scores made; None: on the CPU, by its own code.

    Raises
    ------
    DeviceError
        If a GPU is asked for and there is none, or no torch to use it.
    """
    if name == "cpu":
        return None
    allow_array_api()
    try:
        from nmfbench.device import resolve_device
    except ImportError as error:
        raise DeviceError(
            f"scoring_device: {name}",
            "torch in the environment of this job",
            f"{type(error).__name__}: {error}",
            "install it there (envs/models.yaml has it), or set scoring_device: cpu",
        ) from error

    device = resolve_device(name, "scoring_device")
    logger.info("scores: products on %s", device)  # the table of resources reads this
    return None if device.type == "cpu" else device


def nearest_bounds(
    centred: np.ndarray, norms: np.ndarray, width: int, device: torch.device
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Of each block of rows the cells with the smallest bounds of their squared distances.

    Parameters
    ----------
    centred : ndarray of float32, shape (n_cells, n_factors)
        Cells, their mean taken off.
    norms : ndarray of float32, shape (n_cells,)
        Squared norms, less what rounding may have added.
    width : int
        Candidates of each cell.
    device : torch.device

    Yields
    ------
    start : int
        First row of the block.
    candidates : ndarray of int32, shape (rows, width)
    bounds : ndarray of float32, shape (rows, width)
        Theirs; the largest stands first, and no other cell has a smaller one.
    """
    import torch

    n = len(centred)
    with _single_precision():
        X, own = torch.from_numpy(centred).to(device), torch.from_numpy(norms).to(device)
        columns = max(width, ENTRIES_AT_ONCE // ROWS)
        for start in range(0, n, ROWS):
            rows, row_norms = X[start : start + ROWS], own[start : start + ROWS, None]
            bounds = indices = None
            for first in range(0, n, columns):
                last = min(first + columns, n)
                found = torch.addmm(own[None, first:last], rows, X[first:last].T, alpha=-2.0).add_(row_norms)
                values, places = torch.topk(found, min(width, last - first), largest=False, sorted=False)
                places = places + first
                if bounds is not None:
                    values, places = torch.cat([bounds, values], 1), torch.cat([indices, places], 1)
                    values, chosen = torch.topk(values, width, largest=False, sorted=False)
                    places = places.gather(1, chosen)
                bounds, indices = values, places
            bounds, order = bounds.sort(dim=1, descending=True)
            yield start, indices.gather(1, order).int().cpu().numpy(), bounds.cpu().numpy()


@contextmanager
def _single_precision() -> Iterator[None]:
    """Without TF32, whose products are wrong by more than the bounds allow for."""
    import torch

    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def allow_array_api() -> None:
    """Let scikit-learn take torch's tensors; to be called before SciPy is loaded, which reads it once."""
    os.environ["SCIPY_ARRAY_API"] = "1"


@contextmanager
def _array_api() -> Iterator[None]:
    """The same for a while; scikit-learn refuses where the variable is not set."""
    from sklearn import config_context

    before = os.environ.get("SCIPY_ARRAY_API")
    allow_array_api()
    try:
        with config_context(array_api_dispatch=True):
            yield
    finally:
        if before is None:
            del os.environ["SCIPY_ARRAY_API"]
        else:
            os.environ["SCIPY_ARRAY_API"] = before


def fit_regression(classifier: Any, H: np.ndarray, y: np.ndarray, device: torch.device) -> Any:
    """Fit a pipeline of a scaler and a logistic regression, the latter on a device.

    Parameters
    ----------
    classifier : Pipeline
    H, y : ndarray of shape (n_train, k) and (n_train,)
    device : torch.device

    Returns
    -------
    callable
        From cells of shape (n, k) to the probability of each class, an ndarray.
    """
    import sklearn
    import torch
    from sklearn.utils import get_tags

    scaler, regression = classifier[0], classifier[-1]
    if not get_tags(regression).array_api_support:
        raise InputError(
            "scoring_device: a logistic regression",
            "a scikit-learn whose LogisticRegression takes tensors of torch (1.9)",
            f"scikit-learn {sklearn.__version__}",
            "install the one of requirements.lock, or set scoring_device: cpu",
        )

    def moved(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(device)

    with _array_api(), _single_precision():
        regression.fit(moved(scaler.fit_transform(H)), y)

    def probability(cells: np.ndarray) -> np.ndarray:
        with _array_api(), _single_precision():
            return regression.predict_proba(moved(scaler.transform(cells))).cpu().numpy()

    return probability
