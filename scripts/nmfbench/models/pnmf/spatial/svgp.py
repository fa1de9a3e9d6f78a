"""A sparse variational Gaussian process for every factor.

Each factor is a process with covariance k, ``f_l ~ GP(0, k)``, known through its values u_l at M inducing
points (Titsias 2009, PMLR 5:567; Hensman, Fusi & Lawrence 2013, arXiv:1309.6835). With
``C Cᵀ = K_zz + jitter I``, ``a_x = C⁻¹ k_zx`` and ``q(C⁻¹ u_l) = Normal(m_l, T_l T_lᵀ)``, T_l lower
triangular,

    mu_l(x)     = a_xᵀ m_l
    sigma_l²(x) = k_xx - ||a_x||² + ||T_lᵀ a_x||²
    KL_l        = ½ (||T_l||² + ||m_l||² - M - 2 Σ_i ln T_l,ii)

The parameters are those of the whitened values, so the prior is (0, I) whatever the kernel.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.distributions import MultivariateNormal

from nmfbench.models.pnmf.parameters import softplus_inverse
from nmfbench.models.pnmf.prior import SMALLEST_SIGMA, LatentPrior
from nmfbench.models.pnmf.spatial.kernels import Matern32, Points

LARGEST_VARIANCE = 100.0
CHOLESKY_MODES = ("exp", "softplus")
_LARGEST_PROJECTION = 2**30  # bytes; above it a_x is computed anew for every batch


class SVGP(LatentPrior):
    """k independent sparse processes over the points of the cells.

    Parameters
    ----------
    points : Points
        Of the n cells.
    inducing : Points
        Of the M inducing points; fixed.
    kernel : Matern32
    n_factors : int
    jitter : float
        Added to the diagonal of K_zz.
    cholesky_mode : {"exp", "softplus"}
        What keeps the diagonal of T positive.
    diagonal_only : bool
        Whether T is diagonal.
    scale_kl_NM : bool
        Whether the divergence is multiplied by n / M. The divergence of the inducing values is that of the
        whole process, so with it the objective is no bound and smooths more: for comparison only.
    """

    def __init__(
        self,
        points: Points,
        inducing: Points,
        kernel: Matern32,
        n_factors: int,
        *,
        jitter: float = 1e-5,
        cholesky_mode: str = "exp",
        diagonal_only: bool = False,
        scale_kl_NM: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.points, self.inducing, self.kernel = points, inducing, kernel
        self.jitter, self.cholesky_mode, self.dtype = jitter, cholesky_mode, dtype
        self.divergence_factor = len(points) / len(inducing) if scale_kl_NM else 1.0
        m, device = len(inducing), points.xy.device
        self.mean = torch.nn.Parameter(torch.zeros((m, n_factors), dtype=dtype, device=device))
        # T is the identity at the start: q is the prior
        identity = self._raw(torch.ones((n_factors, m), dtype=dtype, device=device))
        self.raw_diagonal = torch.nn.Parameter(identity)
        if not diagonal_only:
            self.lower = torch.nn.Parameter(torch.zeros((n_factors, m, m), dtype=dtype, device=device))
        self.diagonal_only = diagonal_only
        self._factor: torch.Tensor | None = None
        self._kept: torch.Tensor | None = None

    def diagonal(self) -> torch.Tensor:
        """Diagonals of T, of shape (k, M)."""
        return self._diagonal(self.raw_diagonal)

    def _diagonal(self, raw: torch.Tensor) -> torch.Tensor:
        return raw.exp() if self.cholesky_mode == "exp" else torch.nn.functional.softplus(raw)

    def _raw(self, diagonal: torch.Tensor) -> torch.Tensor:
        return diagonal.log() if self.cholesky_mode == "exp" else softplus_inverse(diagonal)

    def triangle(self) -> torch.Tensor:
        """T, of shape (k, M, M)."""
        if self.diagonal_only:
            return torch.diag_embed(self.diagonal())
        return torch.tril(self.lower, diagonal=-1) + torch.diag_embed(self.diagonal())

    def projection(self, points: Points) -> torch.Tensor:
        """``a_x`` for every point, of shape (n, M)."""
        across = self.kernel(self.inducing, points)
        return torch.linalg.solve_triangular(self._whitener(), across, upper=False).T.to(self.dtype)

    def _whitener(self) -> torch.Tensor:
        """C, of shape (M, M), in double precision."""
        if self.kernel.trainable or self._factor is None:
            covariance = self.kernel(self.inducing, self.inducing)
            eye = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
            self._factor = torch.linalg.cholesky(covariance + self.jitter * eye)
        return self._factor

    def marginals(self, rows=None) -> tuple[torch.Tensor, torch.Tensor]:
        return self._moments(self.of_cells(rows))

    def predict(self, points: Points) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of every factor at any points, both of shape (n, k)."""
        return self._moments(self.projection(points))

    def divergence(self, rows=None) -> torch.Tensor:
        diagonal = self.diagonal().double()
        total = diagonal.square().sum() + self.mean.double().square().sum() - diagonal.numel()
        total = total - 2 * diagonal.log().sum()
        if not self.diagonal_only:
            total = total + torch.tril(self.lower, diagonal=-1).double().square().sum()
        return total / 2

    def inducing_distributions(self) -> tuple[MultivariateNormal, MultivariateNormal]:
        """``(qU, pU)`` of the whitened inducing values, of shape (k, M)."""
        q = MultivariateNormal(self.mean.T, scale_tril=self.triangle())
        eye = torch.eye(len(self.mean), dtype=self.dtype, device=self.mean.device)
        return q, MultivariateNormal(torch.zeros_like(q.loc), scale_tril=eye.expand_as(q.scale_tril))

    def divergence_weight(self, n_cells: int, n_batch: int) -> float:
        return self.divergence_factor

    @torch.no_grad()
    def set_precision(self, factor: int, precision: torch.Tensor) -> None:
        """Let q of a factor have the covariance ``precision⁻¹``, of shape (M, M), in the whitened values."""
        eye = torch.eye(len(precision), dtype=precision.dtype, device=precision.device)
        # of the reversed matrix, so that the root of the inverse comes out lower triangular
        root = torch.linalg.cholesky(precision.flip(0, 1)).flip(0, 1)
        T = torch.linalg.solve_triangular(root, eye, upper=True).T
        self.raw_diagonal[factor] = self._raw(T.diagonal()).to(self.dtype)
        self.lower[factor] = torch.tril(T, diagonal=-1).to(self.dtype)

    @torch.no_grad()
    def set_log_lengthscale(self, value: float, *, keep_process: bool = False) -> torch.Tensor | None:
        """Change the kernel's lengthscale.

        Parameters
        ----------
        value : float
            Its logarithm.
        keep_process : bool
            Whether q of the inducing values stays as it is, so that the whitened values change. Else the
            whitened values stay, and the process changes.

        Returns
        -------
        Tensor of shape (M, M) or None
            What the whitened values were multiplied by to keep the process.
        """
        before = self._whitener() if keep_process else None
        self.kernel.log_lengthscale.fill_(value)
        self._factor = self._kept = None
        if before is None:
            return None
        turn = torch.linalg.solve_triangular(self._whitener(), before, upper=False)
        for name, values in self.turned(turn, {name: p.data for name, p in self.named_parameters()}).items():
            getattr(self, name).copy_(values)
        return turn

    def turned(self, turn: torch.Tensor, where: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """``mean``, ``raw_diagonal`` and ``lower`` of the whitened values multiplied by a lower triangle."""
        diagonal = self._diagonal(where["raw_diagonal"])
        T = torch.tril(where["lower"], diagonal=-1) + torch.diag_embed(diagonal)
        T = turn @ T.double()
        found = {
            "mean": turn @ where["mean"].double(),
            "raw_diagonal": self._raw(torch.diagonal(T, dim1=1, dim2=2)),
            "lower": torch.tril(T, diagonal=-1),
        }
        return {name: values.to(self.dtype) for name, values in found.items()}

    @torch.no_grad()
    def start_from(self, mu: torch.Tensor, noise: float = 0.5, width: float = 0.3) -> None:
        """Let q begin at the process that runs through noisy logarithms of factors.

        Parameters
        ----------
        mu : Tensor of shape (n, k)
            What a start without space found.
        noise : float
            Standard deviation of what of it is not the process.
        width : float
            T begins at this multiple of the identity.
        """
        m = len(self.inducing)
        gram, moment = torch.zeros((m, m), dtype=torch.float64, device=mu.device), 0.0
        for start in range(0, len(self.points), 4096):
            rows = torch.arange(start, min(start + 4096, len(self.points)), device=mu.device)
            a = self.of_cells(rows).double()
            gram += a.T @ a
            moment = moment + a.T @ mu[rows].double()
        gram.diagonal().add_(noise**2)
        self.mean.copy_(torch.linalg.solve(gram, moment))
        self.raw_diagonal.copy_(self._raw(torch.full_like(self.raw_diagonal, width)))

    def of_cells(self, rows=None) -> torch.Tensor:
        """``a_x`` of the cells, kept where the kernel is fixed and they fit."""
        if self.kernel.trainable:
            return self.projection(self.points if rows is None else self.points[rows])
        size = len(self.points) * len(self.inducing) * self.mean.element_size()
        if self._kept is None and size <= _LARGEST_PROJECTION:
            with torch.no_grad():
                self._kept = self.projection(self.points)
        if self._kept is None:
            return self.projection(self.points if rows is None else self.points[rows])
        return self._kept if rows is None else self._kept[rows]

    def _moments(self, a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        unexplained = (self.kernel.variance - a.square().sum(dim=1)).clamp(min=0.0)[:, None]
        if self.diagonal_only:
            known = a.square() @ self.diagonal().square().T
        else:
            # one factor at a time: n x M, never k x n x M
            known = torch.stack([(a @ T).square().sum(dim=1) for T in self.triangle()], dim=1)
        variance = (unexplained + known).clamp(SMALLEST_SIGMA, LARGEST_VARIANCE)
        return a @ self.mean, variance.sqrt()
