"""What a prediction rests on besides a model: the control cells' rates, depths and profile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from nmfbench.perturbation.control import Control
from nmfbench.perturbation.expected import ProfileTable, depths
from nmfbench.perturbation.sums import Sums


@dataclass(frozen=True)
class Prediction:
    """Predicted targets.

    Attributes
    ----------
    names : list of str
    log_rate : ndarray of shape (targets, genes)
        Log of the expected counts of a cell of size factor 1 (in G1, where there is a `cycle`).
    profile : ndarray of shape (targets, genes)
        Expected mean log1p profile.
    flags : list of str
        What a reader should know of a target: empty, or why it fell back.
    cycle : ndarray of shape (2, genes) or None
        Change of the log rate in S and in G2M.
    """

    names: list[str]
    log_rate: np.ndarray
    profile: np.ndarray
    flags: list[str]
    cycle: np.ndarray | None = None

    def of(self, names: Sequence[str]) -> Prediction:
        """The prediction of some of the targets, in this order."""
        place = {name: row for row, name in enumerate(self.names)}
        rows = [place[name] for name in names]
        flags = [self.flags[row] for row in rows]
        return Prediction(list(names), self.log_rate[rows], self.profile[rows], flags, self.cycle)


@dataclass(frozen=True)
class Background:
    """The control cells for training, as far as predictions need them.

    Attributes
    ----------
    genes : ndarray of shape (genes,), object
    control : Control
    control_sizes : ndarray
        Size factors of the control cells.
    ref_depth, target_sum : float
        Median counts of the control cells; counts that cells are scaled to.
    targets : list of str
        Those of the screen.
    phase_shares : ndarray of shape (targets + 1, 3)
        Cells by phase of each target; of all in the last row.
    """

    genes: np.ndarray
    control: Control
    control_sizes: np.ndarray
    ref_depth: float
    target_sum: float
    targets: list[str]
    phase_shares: np.ndarray

    @classmethod
    def of(cls, sums: Sums, control: Control) -> Background:
        """The background of a screen's sums."""
        names = [str(name) for name in sums.targets]
        depth = (sums.control_sizes, sums.ref_depth, sums.target_sum)
        return cls(sums.genes, control, *depth, names, sums.phase_shares)

    @property
    def scale(self) -> float:
        """Counts that a cell of size factor 1 is scaled to, over its counts."""
        return self.target_sum / self.ref_depth

    @cached_property
    def depths(self) -> np.ndarray:
        """Size factors that stand for all."""
        return depths(self.control_sizes)

    @cached_property
    def table(self) -> ProfileTable:
        """From log fold changes to profiles and back."""
        return ProfileTable(np.log(self.control.mean), self.control.theta, self.depths, self.scale)

    def from_profiles(
        self, names: Sequence[str], change: np.ndarray, flags: list[str] | None = None
    ) -> Prediction:
        """A prediction from changes of the mean log1p profile, shape (targets, genes)."""
        distinct, place = np.unique(change, axis=0, return_inverse=True)
        rates = (np.log(self.control.mean) + self.table.log_fold_change(distinct))[place.ravel()]
        return Prediction(list(names), rates, self.control.profile + change, flags or [""] * len(names))

    def from_rates(
        self,
        names: Sequence[str],
        log_rate: np.ndarray,
        flags: list[str] | None = None,
        cycle: np.ndarray | None = None,
    ) -> Prediction:
        """A prediction from log rates, shape (targets, genes).

        Its profile is that of the control cells and the change that the rates bring: where a negative
        binomial does not fit the control cells, both sides of the difference share the misfit.
        """
        profile = np.zeros(log_rate.shape)
        for share, effect in self._mixture(cycle):
            profile += share * self._profiles(log_rate + effect)
        profile += self.control.profile
        return Prediction(list(names), log_rate, profile, flags or [""] * len(names), cycle)

    def _mixture(self, cycle: np.ndarray | None) -> list[tuple[float, Any]]:
        """Share and effect of each phase."""
        if cycle is None:
            return [(1.0, 0.0)]
        shares = self.phase_shares[-1] / max(self.phase_shares[-1].sum(), 1.0)
        return list(zip(shares, [0.0, *cycle], strict=True))

    def _profiles(self, log_rate: np.ndarray) -> np.ndarray:
        # cells are scaled to the same total, so what all rates together grow by is taken off again
        grown = np.exp(log_rate).sum(axis=1, keepdims=True) / self.control.mean.sum()
        return self.table.change_of_profile(log_rate - np.log(self.control.mean) - np.log(grown))

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything, for a file."""
        return {
            "genes": self.genes.astype(str),
            "mean": self.control.mean,
            "theta": self.control.theta,
            "profile": self.control.profile,
            "control_sizes": self.control_sizes,
            "ref_depth": np.array(self.ref_depth),
            "target_sum": np.array(self.target_sum),
            "targets": np.array(self.targets, dtype=str),
            "phase_shares": self.phase_shares,
        }

    @classmethod
    def from_arrays(cls, stored: Mapping[str, Any]) -> Background:
        """What :meth:`arrays` gave."""
        control = Control(*(np.asarray(stored[name]) for name in ("mean", "theta", "profile")))
        return cls(
            np.asarray(stored["genes"]).astype(object),
            control,
            np.asarray(stored["control_sizes"]),
            float(stored["ref_depth"]),
            float(stored["target_sum"]),
            np.asarray(stored["targets"]).astype(str).tolist(),
            np.asarray(stored["phase_shares"]),
        )
