"""What the loop asks of a model's way of fitting, and the rule by which most of them end."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

Row = dict[str, Any]
"""A row of the history, as an engine gives it: ``epoch``, ``objective``, its parts and ``relative_error``."""


class Engine:
    """One way of fitting, a row of the history at a time; :func:`nmfbench.fitting.loop.fit` drives it.

    An engine knows the model's arithmetic. Time, memory, checkpoints, watchers and signals are the loop's.

    Attributes
    ----------
    budget : str
        The estimator's parameter that bounds the fit; also the stop reason where it ends the fit.
    unit : str
        What a row's ``epoch`` counts, in messages.
    remedy : str
        What to do where the objective is no number.
    limit : float
        How far `clock` may go.
    clock : float
        How far the fit has come: passes over the cells, sweeps or steps.
    undone : int
        Newest rows that a resumed fit takes again, as :meth:`state` is from before them.
    lags : bool
        Whether the row that :meth:`advance` gives tells of where the fit stood before it.
    """

    budget: ClassVar[str] = "max_iter"
    unit: ClassVar[str] = "epoch"
    remedy: ClassVar[str] = "check the data for values that are no numbers"
    limit: float
    clock: float = 0
    undone: int = 0
    lags: bool = False

    @property
    def iterations(self) -> tuple[int, str]:
        """Iterations so far as ``max_iter`` counts them, and what one is: a sweep, an epoch or a step."""
        return math.ceil(self.clock), self.unit

    @property
    def steps(self) -> int:
        """Steps so far, by which watchers count."""
        return int(self.clock)

    def begin(self) -> Row | None:
        """The row of the start, where the history has one; called for new fits alone."""
        return None

    def advance(self, pause: Callable[[], bool]) -> Row | None:
        """Go on by one row.

        Parameters
        ----------
        pause : callable
            To be called between two steps within a row, when :meth:`state` is whole; where it says True the
            fit ends there, and None is returned.
        """
        raise NotImplementedError

    def has_converged(self) -> bool:
        """Whether the fit has come to rest."""
        raise NotImplementedError

    def is_over(self) -> bool:
        """Whether the budget is used up."""
        return self.clock >= self.limit

    def score(self, row: Row) -> float | None:
        """What makes a state the best, lower is better; None: the last state is the one that counts."""
        return None

    def keep_best(self) -> None:
        """Remember the present state as the best so far."""

    def end(self) -> Row | None:
        """Put the state that counts in place; a last row, where the history has one more."""
        return None

    def gene_gram(self) -> np.ndarray | None:
        """``W Wᵀ`` (k x k) of the loadings that the newest row tells of; None where there are none."""
        return None

    def describe(self) -> dict[str, Any]:
        """What a watcher is shown; see :class:`nmfbench.fitting.observer.Observer`."""
        raise NotImplementedError

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays and numbers that decide all that follows; views are enough."""
        raise NotImplementedError

    def load_state(self, arrays: dict[str, np.ndarray], record: dict[str, Any]) -> None:
        """Take them back."""
        raise NotImplementedError


class Patience:
    """Ends a fit whose objective has not become lower by more than a share, so many rows in a row.

    Parameters
    ----------
    tol : float
        The share.
    rows : float
        How many rows; infinity never ends a fit.
    """

    def __init__(self, tol: float, rows: float) -> None:
        self.tol, self.rows = tol, rows
        self.lowest, self.waited = math.inf, 0

    def see(self, objective: float) -> None:
        """Take the next row's objective into account."""
        if math.isinf(self.lowest) or objective < self.lowest - self.tol * abs(self.lowest):
            self.lowest, self.waited = objective, 0
        else:
            self.waited += 1

    def is_over(self) -> bool:
        return self.waited >= self.rows

    def record(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"lowest": self.lowest, "waited": self.waited}

    def load(self, record: dict[str, float]) -> None:
        """Take it back."""
        self.lowest, self.waited = record["lowest"], record["waited"]


def orthogonality(gram: np.ndarray) -> float:
    """``||W Wᵀ - I||²`` from ``W Wᵀ``: 0 for factors of length 1 that share no gene."""
    return float(np.square(gram - np.eye(len(gram))).sum())


def part_of(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose names begin with ``prefix.``, without it."""
    return {
        key.removeprefix(f"{prefix}."): value for key, value in arrays.items() if key.startswith(f"{prefix}.")
    }
