"""The latent side of the model: what a prior must offer, and the independent Gaussian one."""

from __future__ import annotations

import torch
from torch.distributions import Distribution, Normal

from nmfbench.errors import InputError
from nmfbench.models.pnmf.parameters import softplus_inverse

SMALLEST_SIGMA = 1e-8


class LatentPrior(torch.nn.Module):
    """A prior of F and the family q(F) that approximates its posterior.

    The engines need of it: its marginals, the divergence, and the gradients in its own parameters that
    belong to gradients in the marginals. A subclass with other marginals (a Gaussian process) writes
    :meth:`marginals` and :meth:`divergence` as differentiable torch code and inherits the rest.

    Attributes
    ----------
    rowwise : bool
        Whether row n of every parameter belongs to cell n alone: minibatches then step only their rows, and
        the divergence of a batch is a part of the whole.
    conjugate : bool
        Whether q is independent over cells and factors with prior ``Normal(0, s²)``: the closed-form steps
        (coordinate ascent, natural gradients) are then possible.
    """

    rowwise = False
    conjugate = False

    def marginals(self, rows: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """``mu`` and ``sigma`` of the cells (`rows` of them), both of shape (cells, k)."""
        raise NotImplementedError

    def divergence(self, rows: torch.Tensor | None = None) -> torch.Tensor:
        """KL(q || prior) as a scalar; of a rowwise prior the part of `rows`."""
        raise NotImplementedError

    def divergence_weight(self, n_cells: int, n_batch: int) -> float:
        """What :meth:`divergence` of a batch is multiplied by to stand for the whole."""
        return n_cells / n_batch if self.rowwise else 1.0

    def inducing_distributions(self) -> tuple[Distribution, Distribution]:
        """``(qU, pU)`` of the inducing values, where the prior has some."""
        raise InputError(
            f"{type(self).__name__}.inducing_distributions", "a prior with inducing points (SVGP)",
            type(self).__name__, "leave spatial=True out",
        )  # fmt: skip

    def gradients(
        self, on_mu: torch.Tensor, on_sigma: torch.Tensor, weight: float, rows: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Gradients of a loss in the parameters, by name.

        Parameters
        ----------
        on_mu, on_sigma : Tensor of shape (rows, k)
            Derivatives of the loss's other part in the marginals.
        weight : float
            Weight of the divergence in the loss.
        rows : LongTensor or None
            The batch. A rowwise prior gives gradients of these rows alone.
        """
        self.zero_grad()
        with torch.enable_grad():
            mu, sigma = self.marginals(rows)
            kl = self.divergence(rows)
        torch.autograd.backward([mu, sigma, kl], [on_mu, on_sigma, torch.full_like(kl, weight)])
        return {name: p.grad for name, p in self.named_parameters() if p.grad is not None}

    def sample(self, n_samples: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """Draws of F from q's marginals, of shape (n_samples, cells, k)."""
        with torch.no_grad():
            mu, sigma = self.marginals()
            noise = torch.randn((n_samples, *mu.shape), generator=generator, dtype=mu.dtype, device=mu.device)
            return noise.mul_(sigma).add_(mu)


class GaussianPrior(LatentPrior):
    """``F_nl ~ Normal(0, scale_pf²)`` with ``q(F_nl) = Normal(mu_nl, sigma_nl²)``, all independent.

    Parameters
    ----------
    y : Tensor or ndarray of shape (d, n)
        Only its shape is used.
    L : int, default=10
        Number of factors.
    scale_pf : float, default=1.0
        Standard deviation of the prior.
    use_natural_gradients : bool, default=False
        Whether q is held as ``θ1 = mu/sigma²`` and ``θ2 = -1/(2 sigma²)``.
    generator : torch.Generator or None
        Draws the start (standard parameters); one seeded with 0 where it is None.

    Examples
    --------
    >>> import torch
    >>> prior = GaussianPrior(torch.zeros(5, 8), L=2)
    >>> qF, pF = prior()
    >>> qF.mean.shape, pF.scale.unique()
    (torch.Size([2, 8]), tensor([1.]))
    >>> prior.forward_batched(torch.tensor([0, 3]))[0].mean.shape
    torch.Size([2, 2])
    """

    rowwise = True
    conjugate = True

    def __init__(
        self,
        y,
        L: int = 10,
        scale_pf: float = 1.0,
        use_natural_gradients: bool = False,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__()
        n = y.shape[1]
        self.scale_pf = scale_pf
        self.use_natural_gradients = use_natural_gradients
        if use_natural_gradients:
            self.theta1 = torch.nn.Parameter(torch.zeros((n, L), dtype=dtype, device=device))
            self.theta2 = torch.nn.Parameter(torch.full((n, L), -0.5, dtype=dtype, device=device))
        else:
            generator = torch.Generator().manual_seed(0) if generator is None else generator
            mu, raw = (torch.randn((n, L), generator=generator, dtype=dtype) for _ in range(2))
            self.mu = torch.nn.Parameter(mu.to(device))
            self.raw_sigma = torch.nn.Parameter(raw.to(device))

    @classmethod
    def of(cls, mu: torch.Tensor, sigma: torch.Tensor, scale_pf=1.0, natural: bool = False) -> GaussianPrior:
        """A prior object that holds ``q = Normal(mu, sigma²)``; both of shape (cells, k)."""
        n, k = mu.shape
        empty = torch.empty((0, n))
        prior = cls(empty, k, scale_pf, natural, dtype=mu.dtype, device=mu.device)
        prior.set(mu, sigma)
        return prior

    @torch.no_grad()
    def set(self, mu: torch.Tensor, sigma: torch.Tensor, rows=slice(None)) -> None:
        """Let q (of some cells) have this mean and standard deviation."""
        sigma = sigma.clamp(min=SMALLEST_SIGMA)
        if self.use_natural_gradients:
            self.theta1[rows] = mu / sigma.square()
            self.theta2[rows] = -0.5 / sigma.square()
        else:
            self.mu[rows] = mu
            self.raw_sigma[rows] = softplus_inverse(sigma)

    def marginals(self, rows=None) -> tuple[torch.Tensor, torch.Tensor]:
        rows = slice(None) if rows is None else rows
        if self.use_natural_gradients:
            variance = -0.5 / self.theta2[rows]
            return variance * self.theta1[rows], variance.sqrt()
        sigma = torch.nn.functional.softplus(self.raw_sigma[rows]).clamp(min=SMALLEST_SIGMA)
        return self.mu[rows], sigma

    def divergence(self, rows=None) -> torch.Tensor:
        mu, sigma = self.marginals(rows)
        return gaussian_divergence(mu, sigma, self.scale_pf)

    @torch.no_grad()
    def gradients(self, on_mu, on_sigma, weight, rows=None) -> dict[str, torch.Tensor]:
        if self.use_natural_gradients:
            raise RuntimeError("natural parameters are stepped by natural gradients, not by plain ones")
        mu, sigma = self.marginals(rows)
        variance = self.scale_pf**2
        on_mu = on_mu + (weight / variance) * mu
        on_sigma = on_sigma + weight * (sigma / variance - 1 / sigma)
        raw = self.raw_sigma if rows is None else self.raw_sigma[rows]
        return {"mu": on_mu, "raw_sigma": on_sigma.mul_(torch.sigmoid(raw))}

    def forward(self) -> tuple[Normal, Normal]:
        """``(qF, pF)``, two normal distributions of shape (k, cells)."""
        return self._distributions(None)

    def forward_batched(self, idx: torch.Tensor) -> tuple[Normal, Normal]:
        """``(qF, pF)`` of the cells `idx`."""
        return self._distributions(idx)

    @property
    def mean(self) -> torch.Tensor:
        """mu, of shape (k, cells)."""
        return self.marginals()[0].T

    @property
    def scale(self) -> torch.Tensor:
        """sigma, of shape (k, cells)."""
        return self.marginals()[1].T

    def natural_parameters(self) -> tuple[torch.Tensor, torch.Tensor]:
        """``(θ1, θ2)``, both of shape (k, cells).

        Raises
        ------
        RuntimeError
            Where q is held by mean and standard deviation.
        """
        if not self.use_natural_gradients:
            raise RuntimeError("natural_parameters: this prior was made with use_natural_gradients=False")
        return self.theta1.T, self.theta2.T

    def _distributions(self, rows) -> tuple[Normal, Normal]:
        mu, sigma = self.marginals(rows)
        scale = torch.as_tensor(self.scale_pf, dtype=mu.dtype, device=mu.device)
        wide = (scale[:, None] if scale.ndim else scale).expand(mu.T.shape)
        return Normal(mu.T, sigma.T), Normal(torch.zeros_like(wide), wide)


def gaussian_divergence(mu: torch.Tensor, sigma: torch.Tensor, scale=1.0) -> torch.Tensor:
    """``Σ [ln(s/sigma) + (sigma² + mu²)/(2 s²) - 1/2]`` in double precision; `scale` is a number or (k,)."""
    mu, sigma = mu.double(), sigma.double()
    scale = torch.as_tensor(scale, dtype=torch.float64, device=mu.device)
    return (torch.log(scale / sigma) + (sigma.square() + mu.square()) / (2 * scale.square()) - 0.5).sum()
