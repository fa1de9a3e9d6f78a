"""Compile and load what a fit will need before its clock starts.

The first call of a loop compiles it or loads it from numba's cache, the first product on a GPU starts CUDA:
seconds, on a busy machine half a minute. The first of several jobs pays for all: timed with the fit, the
order of the jobs would decide who is slow.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

log = logging.getLogger("nmfbench")
_CELLS = 64

#: What a fit of a moment has at most, of the parameters that a model has.
BRIEF = {
    **dict.fromkeys(("n_components", "max_iter"), 2),
    **dict.fromkeys(("post_full_P_steps", "draws", "marker_draws"), 1),
    **{"num_inducing": 16, "verbose": 0},
}
#: What a fit is given of genes; the rest is of cells.
_OF_GENES = ("gene_names", "var")


def warm_up(model: Any, rows: Any, labels: Mapping[str, Any], *, gathered: bool = False) -> float:
    """Fit a copy of a model to a few cells, for as long as every loop has run once.

    Parameters
    ----------
    model : estimator
        What will be fitted; it is left as it is.
    rows : RowSource
        The cells that it will be fitted to, of which the first block is read.
    labels : mapping
        What its ``fit`` will be given beside them.
    gathered : bool
        Whether an autoencoder will be fitted to statistics that were gathered before.

    Returns
    -------
    float
        Seconds it took; 0.0 of a model that is given or a baseline, which nothing here compiles.
    """
    from sklearn.base import clone

    from nmfbench.models.given import GivenEmbedding

    if isinstance(model, GivenEmbedding):
        return 0.0
    started = time.monotonic()
    _, block = next(iter(rows.blocks(_CELLS)))
    n = block.shape[0]
    brief = {name: _least(value, BRIEF[name]) for name, value in model.get_params().items() if name in BRIEF}
    few = clone(model).set_params(**brief)
    if hasattr(few, "take_solver"):  # of a few cells another would be the sooner one
        few.take_solver(model.solver_for(rows, labels.get("conditions"), gathered=gathered))
    # labels of cells from everywhere: the first ones may all be of one donor, and what they say is no matter
    spread = np.linspace(0, rows.n_rows - 1, n).astype(int)
    given = {name: v if v is None or name in _OF_GENES else _of(v, spread) for name, v in labels.items()}
    loud = log.level
    log.setLevel(logging.CRITICAL)  # of these few cells nobody wants to read
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            few.fit(block, **given, progress=False)
    except Exception as error:
        # A fit that cannot be says so itself, of all cells; what only these few do not carry goes on cold.
        log.setLevel(loud)
        log.debug("not warmed up: %s", error)
    finally:
        log.setLevel(loud)
    return time.monotonic() - started


def _least(value: Any, most: int) -> Any:
    """The smaller of the two; a budget that the model would choose (None, a mapping) is the least."""
    if value is None or isinstance(value, Mapping):
        return most
    return value if isinstance(value, bool) else min(value, most)


def _of(given: Any, cells: np.ndarray) -> Any:
    return given.iloc[cells] if hasattr(given, "iloc") else np.asarray(given)[cells]
