"""What multiplies the rates: a size of each cell (exposure) and a multiplier of each donor's genes.

``R_nd = s_n γ_bd Σ_l exp(F_nl) W_dl`` with the donor b of cell n. The allocation of a count to the factors
depends on neither, so that only the sums of the rates change (section "Exposure and donors" of docs/pnmf.md).
"""

from __future__ import annotations

import numpy as np
import torch


class RateScales:
    """Exposure s and donor multipliers γ; without either, all rates are ``exp(F) Wᵀ``.

    Parameters
    ----------
    exposure : Tensor of shape (n,) or None
    donors : LongTensor of shape (n,) or None
        Codes 0 .. B - 1.
    multipliers : Tensor of shape (B, d) or None
        γ. One for all where there are donors and this is None.
    strength : float
        κ of the Gamma(κ, κ) that draws γ towards 1.
    """

    def __init__(self, exposure=None, donors=None, multipliers=None, strength: float = 0.0) -> None:
        self.exposure = exposure
        self.donors = donors
        self.multipliers = multipliers
        self.strength = strength
        self._sums: torch.Tensor | None = None
        self._log_exposure = 0.0

    @classmethod
    def of(cls, counts, exposure=None, donors: np.ndarray | None = None, strength: float = 0.0) -> RateScales:
        """Scales of counts, the multipliers all 1 at first."""
        if exposure is not None:
            exposure = torch.as_tensor(exposure, dtype=counts.dtype, device=counts.device)
        scales = cls(exposure, None, None, strength)
        if donors is not None:
            n_donors = int(donors.max()) + 1
            scales.donors = torch.as_tensor(donors, device=counts.device, dtype=torch.int64)
            scales.multipliers = torch.ones(
                (n_donors, counts.shape[1]), dtype=counts.dtype, device=counts.device
            )
            scales._sums = _donor_sums(counts, donors, n_donors)
        if exposure is not None:
            sums = counts.cell_sums().double()
            scales._log_exposure = float((sums * exposure.double().clamp(min=1e-300).log()).sum())
        return scales

    def copy(self) -> RateScales:
        """A copy whose update leaves this one alone."""
        twin = RateScales(self.exposure, self.donors, self.multipliers, self.strength)
        twin._sums, twin._log_exposure = self._sums, self._log_exposure
        return twin

    def weights(self, W: torch.Tensor) -> torch.Tensor:
        """``w_bl = Σ_d γ_bd W_dl``, of shape (B, k); (1, k) without donors."""
        if self.multipliers is None:
            return W.sum(dim=0, keepdim=True, dtype=torch.float64).to(W.dtype)
        return self.multipliers @ W

    def of_cells(self, weights: torch.Tensor, rows=slice(None)) -> torch.Tensor:
        """``s_n w_b(n)``: what ``exp F_n`` is multiplied by in the sum of its rates; broadcasts to (n, k)."""
        if self.donors is not None:
            weights = weights[self.donors[rows]]
        return weights if self.exposure is None else self.exposure[rows, None] * weights

    def sums(self, M: torch.Tensor, rows=slice(None)) -> torch.Tensor:
        """``a_bl = Σ_{n in b} s_n M_nl`` of shape (B, k) or (1, k), summed in double precision."""
        if self.exposure is not None:
            M = M * self.exposure[rows, None]
        if self.donors is None:
            return M.sum(dim=0, keepdim=True, dtype=torch.float64).to(M.dtype)
        total = torch.zeros((len(self.multipliers), M.shape[1]), dtype=torch.float64, device=M.device)
        return total.index_add_(0, self.donors[rows], M.double()).to(M.dtype)

    def of_genes(self, sums: torch.Tensor) -> torch.Tensor:
        """``Σ_b γ_bd a_bl`` of shape (d, k); (1, k) without donors: the derivative of all rates in W."""
        return sums if self.multipliers is None else self.multipliers.T @ sums

    def hidden_squares(self, M: torch.Tensor, W: torch.Tensor) -> float:
        """Sum of the squared rates of entries that are not fitted: here there are none."""
        return 0.0

    def constant(self) -> float:
        """What they add to the logarithms: ``Σ x ln s_n γ_bd``, and the prior of γ (0 at γ = 1)."""
        total = self._log_exposure
        if self.multipliers is not None:
            gamma = self.multipliers.double()
            logs = gamma.clamp(min=1e-300).log()
            total += float((self._sums * logs).sum() + self.strength * (logs - gamma + 1).sum())
        return total

    def update(self, sums: torch.Tensor, W: torch.Tensor) -> None:
        """``γ_bd = (κ + Σ_{n in b} X_nd) / (κ + Σ_l a_bl W_dl)``: the maximum for fixed q and W."""
        expected = sums.double() @ W.double().T
        gamma = (self.strength + self._sums) / (self.strength + expected).clamp(min=1e-30)
        self.multipliers = gamma.clamp_(min=1e-8).to(W.dtype)

    def select(self, cells: np.ndarray | None, counts) -> RateScales:
        """The exposure of some cells, of which `counts` are the counts; donors are for whole data alone."""
        if self.exposure is None or cells is None:
            return RateScales.of(counts, self.exposure)
        return RateScales.of(counts, self.exposure[torch.as_tensor(cells, device=counts.device)])


def _donor_sums(counts, donors: np.ndarray, n_donors: int) -> torch.Tensor:
    """Counts of each gene in each donor, (B, d), in double precision."""
    import scipy.sparse as sp

    n = len(donors)
    member = sp.csr_array((np.ones(n), (donors, np.arange(n))), shape=(n_donors, n))
    return torch.from_numpy((member @ sp.csr_array(counts.csr)).toarray()).to(counts.device)
