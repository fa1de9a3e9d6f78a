"""What a fit tells a watcher, and nothing that a watcher could tell the fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Observer(Protocol):
    """Watches a fit; the numbers of the fit are the same with and without it.

    A fit calls :meth:`step` with every row of its history, :meth:`state` after every `state_every` of them,
    and :meth:`end` once, also when the fit was interrupted. What is given is to be read, not written; arrays
    may share memory with the fit and are valid during the call alone.

    Attributes
    ----------
    state_every : int
        Rows from one :meth:`state` to the next; 0 asks for none.
    """

    state_every: int

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Scalars after `step` steps, by name: ``loss``, and the finite entries of the history's row."""

    def state(self, step: int, state: Mapping[str, Any]) -> None:
        """Where the fit stands, as arrays on the CPU.

        ``cell_factors`` (cells x k) and ``gene_factors`` (k x genes), the posterior means where there is a
        posterior and then also ``cell_factors_sd`` and ``gene_factors_sd``; of models of counts the scalar
        ``chi_squared``, and ``gene_mean`` and ``gene_variance`` (genes,) of the reconstruction.
        """

    def end(self, step: int, state: Mapping[str, Any]) -> None:
        """The last state, as in :meth:`state`."""
