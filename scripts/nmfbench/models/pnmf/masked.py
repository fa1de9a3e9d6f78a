"""Rates of a Poisson factorisation whose likelihood leaves entries out.

With the held-out entries M, a cell's rates sum to ``s_n Σ_l A_nl (w_bl - Σ_{d in M_n} γ_bd W_dl)``: every
cell has weights of its own, as if it were a donor of its own, and every gene a denominator of its own. The
objectives, steps and sweeps are those of all entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import gammaln

from nmfbench.errors import InputError
from nmfbench.models.held_out_entries import HeldOutEntries
from nmfbench.models.hidden import HiddenEntries
from nmfbench.models.pnmf.coordinate import LatentState
from nmfbench.models.pnmf.counts import FLOOR, Counts
from nmfbench.models.pnmf.scales import RateScales

CHUNK = 2**16


class MaskedScales(RateScales):
    """What multiplies the rates of the entries that are fitted.

    Parameters
    ----------
    scales : RateScales
        Exposure, donors and multipliers; of counts without the hidden entries.
    hidden : HiddenEntries
    """

    def __init__(self, scales: RateScales, hidden: HiddenEntries) -> None:
        super().__init__(scales.exposure, scales.donors, scales.multipliers, scales.strength)
        self._sums, self._log_exposure, self.hidden = scales._sums, scales._log_exposure, hidden

    def copy(self) -> MaskedScales:
        return MaskedScales(super().copy(), self.hidden)

    def weights(self, W: torch.Tensor) -> torch.Tensor:
        """``w_nl = Σ_d γ_b(n)d W_dl`` over the genes of a cell that are fitted, of shape (n, k)."""
        whole = super().weights(W)
        if self.multipliers is None:
            return whole - self.hidden.of_cells(W)
        found = whole[self.donors]
        for donor, gamma in enumerate(self.multipliers):
            mine = self.donors == donor
            found[mine] -= self.hidden.of_cells(W * gamma[:, None])[mine]
        return found

    def of_cells(self, weights: torch.Tensor, rows=slice(None)) -> torch.Tensor:
        weights = weights[rows]
        return weights if self.exposure is None else self.exposure[rows, None] * weights

    def sums(self, M: torch.Tensor, rows=slice(None)) -> torch.Tensor:
        """``s_n M_nl`` of shape (n, k), a copy: cells with weights of their own are not summed."""
        return M.clone() if self.exposure is None else M * self.exposure[rows, None]

    def of_genes(self, sums: torch.Tensor) -> torch.Tensor:
        """``Σ_n γ_b(n)d s_n M_nl`` over the cells of a gene that are fitted, of shape (d, k)."""
        if self.multipliers is None:
            whole = sums.sum(dim=0, keepdim=True, dtype=torch.float64).to(sums.dtype)
            return whole - self.hidden.of_genes(sums)
        found = 0.0
        for donor, gamma in enumerate(self.multipliers):
            found = found + gamma[:, None] * self._of_donor(sums, donor)
        return found

    def update(self, sums: torch.Tensor, W: torch.Tensor) -> None:
        expected = torch.stack(
            [
                (self._of_donor(sums, donor).double() * W.double()).sum(1)
                for donor in range(len(self.multipliers))
            ]
        )
        gamma = (self.strength + self._sums) / (self.strength + expected).clamp(min=1e-30)
        self.multipliers = gamma.clamp_(min=1e-8).to(W.dtype)

    def select(self, cells: np.ndarray | None, counts) -> MaskedScales:
        if cells is None and counts.shape == self.hidden.shape:
            return self
        raise InputError(
            "mask_fraction with batch_size or y_batch_size",
            "all cells and genes in each step",
            "minibatches",
            "leave batch_size and y_batch_size out",
        )

    def hidden_squares(self, M: torch.Tensor, W: torch.Tensor) -> float:
        """Sum of the squared rates of the hidden entries; the exposure is in M."""
        rates = self.hidden.rates(M, W)
        if self.multipliers is not None:
            rates *= self.multipliers[self.donors[self.hidden.cells], self.hidden.genes].double()
        return float(rates.square().sum())

    def _of_donor(self, sums: torch.Tensor, donor: int) -> torch.Tensor:
        """``Σ s_n M_nl`` over the cells of a donor in which a gene is fitted, of shape (d, k)."""
        mine = sums * (self.donors == donor)[:, None]
        return mine.sum(dim=0, dtype=torch.float64).to(sums.dtype) - self.hidden.of_genes(mine)


@dataclass(frozen=True)
class FittedCounts:
    """The counts that a fit is given, and what is held out of them.

    Attributes
    ----------
    counts : Counts
        Without the entries that are held out.
    totals : ndarray of shape (n,) or None
        Totals of the cells, from what is fitted; None: as the counts have them.
    held_out : HeldOutEntries or None
    hidden : HiddenEntries or None
        The same entries where sums are taken.
    """

    counts: Counts
    totals: np.ndarray | None = None
    held_out: HeldOutEntries | None = None
    hidden: HiddenEntries | None = None

    @classmethod
    def of(cls, X: Any, device: torch.device, fraction: float, *which: Any) -> FittedCounts:
        """All of X where the fraction is 0; `which` are seed and names (:meth:`HeldOutEntries.of`)."""
        if not fraction:
            return cls(Counts(X, device))
        held_out = HeldOutEntries.of(X, fraction, *which)
        hidden = HiddenEntries(held_out.mask, device)
        return cls(Counts(held_out.train, device), held_out.totals(), held_out, hidden)

    @property
    def mean_total(self) -> float:
        return self.counts.total / self.counts.shape[0] if self.totals is None else float(self.totals.mean())

    def masked(self, scales: RateScales) -> RateScales:
        """Scales of what is fitted."""
        return scales if self.hidden is None else MaskedScales(scales, self.hidden)

    def scores(self, state: LatentState) -> list[dict[str, Any]] | None:
        """Scores of the held-out entries; None where there are none."""
        return None if self.held_out is None else self.held_out.scores(PoissonDensity(state))


@dataclass(frozen=True)
class PoissonDensity:
    """Counts as Poisson about the posterior means of the rates."""

    state: LatentState

    def log_density(self, y: np.ndarray, rows: np.ndarray, genes: np.ndarray) -> np.ndarray:
        """Log density of counts `y` of the entries (rows, genes); a rate is at least the fit's floor."""
        scales, A, W = self.state.scales, self.state.mean_factors(), self.state.W
        i, d = (torch.as_tensor(np.asarray(part, dtype=np.int64), device=W.device) for part in (rows, genes))
        parts = zip(i.split(CHUNK), d.split(CHUNK), strict=True)
        rate = torch.cat([(A[p].double() * W[q].double()).sum(1) for p, q in parts])
        if scales.exposure is not None:
            rate *= scales.exposure[i].double()
        if scales.multipliers is not None:
            rate *= scales.multipliers[scales.donors[i], d].double()
        rate = rate.clamp_(min=FLOOR).cpu().numpy()
        return y * np.log(rate) - rate - gammaln(y + 1)
