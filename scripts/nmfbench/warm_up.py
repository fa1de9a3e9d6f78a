"""Compile what a fit will need before its clock starts.

The first call of a loop compiles it or loads it from numba's cache: seconds, on a busy machine half a minute.
The first of several jobs pays for all: timed with the fit, the order of the jobs would decide who is slow.
"""

from __future__ import annotations

import logging
import time
from typing import Any

log = logging.getLogger("nmfbench")
_CELLS = 64
_FACTORS = 2


def warm_up(model: Any, rows: Any, conditions: Any = None, strata: Any = None) -> float:
    """Fit a copy of an autoencoder to a few cells for one sweep.

    Parameters
    ----------
    model : estimator
        What will be fitted; it is left as it is. Only what is fitted by compiled sweeps is warmed up.
    rows : RowSource
        The cells, of which the first block is read.
    conditions, strata : DataFrame or array of all cells, optional

    Returns
    -------
    float
        Seconds it took; 0.0 where there is nothing to compile.
    """
    if getattr(model, "solver", None) not in ("auto", "statistics"):
        return 0.0
    from sklearn.base import clone

    started = time.monotonic()
    _, block = next(iter(rows.blocks(_CELLS)))
    few = clone(model).set_params(
        n_components=_FACTORS, solver="statistics", max_sweeps=1, device="cpu", verbose=0
    )
    n = block.shape[0]
    labels = {"conditions": conditions, "strata": strata}
    labels = {name: None if given is None else given[:n] for name, given in labels.items()}
    loud = log.level
    log.setLevel(logging.ERROR)  # of these few cells nobody wants to read
    try:
        few.fit(block, **labels, progress=False)
    finally:
        log.setLevel(loud)
    return time.monotonic() - started
