"""A Gaussian process for every factor, whose divergence is a sum over local conditionals.

Every cell is an inducing point. ``q(f_l) = Normal(m_l, diag(d_l) + V_l V_lᵀ)``; the divergence from the prior
is replaced by the sum over cells j of that between the two conditionals of ``f_j`` given its K neighbours ν.
With ``β = K_νν⁻¹ k_νj``, ``τ² = k_jj - k_jν β``, and of q ``α = S_νν⁻¹ s_νj``, ``t² = s_jj - s_jν α``,

    KL_j = ½ [ ln(τ²/t²) - 1 + (t² + (m_j - βᵀ m_ν)² + (α - β)ᵀ S_νν (α - β)) / τ² ]

which is the expectation over q(f_ν) of KL(q(f_j | f_ν) || p(f_j | f_ν)). Neighbours do not follow an order,
so the sum is no divergence of two joint distributions; but it is not negative, and 0 where all conditionals
agree.
"""

from __future__ import annotations

import numpy as np
import torch

from nmfbench.models.pnmf.parameters import softplus_inverse
from nmfbench.models.pnmf.prior import LatentPrior
from nmfbench.models.pnmf.spatial.kernels import Matern32, Points
from nmfbench.models.pnmf.spatial.neighbours import find_neighbours

SMALLEST_VARIANCE, LARGEST_VARIANCE = 1e-3, 100.0
_SMALLEST_CONDITIONAL = 1e-6
_FIRST_SPREAD = 0.1


class LCGP(LatentPrior):
    """k independent processes over the cells, conditioned locally.

    Parameters
    ----------
    points : Points
        Of the n cells.
    kernel : Matern32
    n_factors : int
    n_neighbours : int
        K; at most n - 1 are taken.
    neighbours : {"knn", "probabilistic"}
        See :func:`~nmfbench.models.pnmf.spatial.neighbours.find_neighbours`.
    precompute : bool
        Whether the neighbours are found once and kept. Else anew for the cells of every step: less memory.
    jitter : float
        Added to the diagonals of K_νν and S_νν.
    seed : int
        Of the start of V and of drawn neighbours.
    """

    def __init__(
        self,
        points: Points,
        kernel: Matern32,
        n_factors: int,
        *,
        n_neighbours: int = 50,
        neighbours: str = "knn",
        precompute: bool = True,
        jitter: float = 1e-5,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        n, device = len(points), points.xy.device
        self.points, self.kernel = points, kernel
        self.n_neighbours, self.rule = min(n_neighbours, n - 1), neighbours
        self.jitter, self.dtype = jitter, dtype
        self._seed = seed
        generator = torch.Generator().manual_seed(seed)
        V = _FIRST_SPREAD * torch.randn((n_factors, n, self.n_neighbours), generator=generator, dtype=dtype)
        self.mean = torch.nn.Parameter(torch.zeros((n, n_factors), dtype=dtype, device=device))
        d = torch.full((n, n_factors), _FIRST_SPREAD, dtype=dtype, device=device)
        self.raw_diagonal = torch.nn.Parameter(softplus_inverse(d))
        self.V = torch.nn.Parameter(V.to(device))
        self._table = self._find(points) if precompute else None
        self._conditionals: tuple[torch.Tensor, torch.Tensor] | None = None

    def diagonal(self) -> torch.Tensor:
        """d, of shape (n, k)."""
        return torch.nn.functional.softplus(self.raw_diagonal)

    def marginals(self, rows=None) -> tuple[torch.Tensor, torch.Tensor]:
        rows = slice(None) if rows is None else rows
        variance = self.diagonal()[rows] + self.V[:, rows].square().sum(dim=2).T
        return self.mean[rows], variance.clamp(SMALLEST_VARIANCE, LARGEST_VARIANCE).sqrt()

    def divergence(self, rows=None) -> torch.Tensor:
        rows = torch.arange(len(self.points), device=self.mean.device) if rows is None else rows
        if self._table is not None:
            nu = self._table[rows]
        else:
            with torch.no_grad():
                nu = self._find(self.points, rows)
        beta, tau = self._prior_conditionals(rows, nu)
        total = 0.0
        for l in range(self.mean.shape[1]):  # one factor at a time: rows x K x K, never k of them
            total = total + self._divergence_of(l, rows, nu, beta, tau)
        return total

    def divergence_weight(self, n_cells: int, n_batch: int) -> float:
        return n_cells / n_batch

    def predict(self, points: Points) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of every factor at any points, from their K nearest cells.

        ``mu = βᵀ m_ν`` and ``sigma² = max(k_xx - k_xν β, 0) + βᵀ (S_νν + jitter I) β``, both of shape (n, k).
        """
        nu = find_neighbours(self.kernel, self.points, self.n_neighbours, of=points)
        beta, tau = self._solve(points, self.points[nu])
        mu = torch.einsum("nv,nvl->nl", beta, self.mean.double()[nu])
        variance = (beta.square()[:, :, None] * (self.diagonal().double()[nu] + self.jitter)).sum(dim=1)
        for l in range(mu.shape[1]):
            variance[:, l] += torch.einsum("nv,nvr->nr", beta, self.V[l].double()[nu]).square().sum(dim=1)
        variance = (variance + tau[:, None].clamp(min=0)).clamp(SMALLEST_VARIANCE, LARGEST_VARIANCE)
        return mu.to(self.dtype), variance.sqrt().to(self.dtype)

    @torch.no_grad()
    def start_from(self, mu: torch.Tensor) -> None:
        """Let q's mean begin at the factors' logarithms that a start without space found, smoothed a little.

        Each cell takes the mean of its own value and of what its neighbours would predict for it.
        """
        rows = torch.arange(len(self.points), device=mu.device)
        nu = self._table if self._table is not None else self._find(self.points)
        beta, _ = self._prior_conditionals(rows, nu)
        around = torch.einsum("nv,nvl->nl", beta, mu.double()[nu])
        self.mean.copy_((mu.double() + around) / 2)

    def _find(self, points: Points, rows: torch.Tensor | None = None) -> torch.Tensor:
        # the same draws at every call, so that a resumed fit goes on as it would have
        rng = np.random.default_rng(self._seed)
        return find_neighbours(self.kernel, points, self.n_neighbours, rows=rows, rule=self.rule, rng=rng)

    def _prior_conditionals(self, rows: torch.Tensor, nu: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """β of shape (rows, K) and τ² of shape (rows,), kept where neither kernel nor neighbours change."""
        if self.kernel.trainable or self._table is None:
            beta, tau = self._solve(self.points[rows], self.points[nu])
            return beta, tau.clamp(min=_SMALLEST_CONDITIONAL)
        if self._conditionals is None:
            parts = [
                self._solve(self.points[start : start + 4096], self.points[self._table[start : start + 4096]])
                for start in range(0, len(self.points), 4096)
            ]
            beta, tau = (torch.cat(part) for part in zip(*parts, strict=True))
            self._conditionals = beta, tau.clamp(min=_SMALLEST_CONDITIONAL)
        return tuple(part[rows] for part in self._conditionals)

    def _solve(self, own: Points, around: Points) -> tuple[torch.Tensor, torch.Tensor]:
        """``K_νν⁻¹ k_νj`` and ``k_jj - k_jν β`` in double precision."""
        alone = Points(own.xy[:, None], None if own.groups is None else own.groups[:, None])
        across = self.kernel(around, alone)[..., 0]
        beta = _solved(self.kernel(around, around), across, self.jitter)
        return beta, self.kernel.variance - (across * beta).sum(dim=1)

    def _divergence_of(self, l: int, rows, nu, beta, tau) -> torch.Tensor:
        mean, d, V = self.mean[:, l].double(), self.diagonal()[:, l].double(), self.V[l].double()
        near, own = V[nu], V[rows]
        S = near @ near.transpose(1, 2) + torch.diag_embed(d[nu])
        s = (near @ own[:, :, None])[..., 0]
        alpha = _solved(S, s, self.jitter)
        t = (d[rows] + own.square().sum(dim=1) - (s * alpha).sum(dim=1)).clamp(min=_SMALLEST_CONDITIONAL)
        gap = mean[rows] - (beta * mean[nu]).sum(dim=1)
        turn = alpha - beta
        spread = torch.einsum("nv,nvw,nw->n", turn, S, turn)
        return 0.5 * ((tau / t).log() - 1 + (t + gap.square() + spread) / tau).sum()


def _solved(matrices: torch.Tensor, vectors: torch.Tensor, jitter: float) -> torch.Tensor:
    """Solutions of the systems (matrix + jitter I) x = vector, of shape (n, K)."""
    eye = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    factor = torch.linalg.cholesky(matrices + jitter * eye)
    return torch.cholesky_solve(vectors[..., None], factor)[..., 0]
