"""The model as PyTorch objects: for those who write their own training loop.

Shapes are genes first, as in the reference: y is (d, n), distributions of F are (k, n). Nothing of the shape
genes x cells is formed in :meth:`PoissonFactorization.forward`, only sums over it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch.distributions import Distribution, Normal
from torch.distributions import kl_divergence as torch_divergence

from nmfbench.errors import InputError
from nmfbench.linalg import as_sorted_csr
from nmfbench.models.pnmf.counts import Counts
from nmfbench.models.pnmf.draws import generator
from nmfbench.models.pnmf.likelihood import MODES, log_likelihood
from nmfbench.models.pnmf.parameters import ConstrainedParameter, PositiveParameter
from nmfbench.models.pnmf.prior import LatentPrior


class _LogLikelihood(torch.autograd.Function):
    """``LL + C`` of a mode in two parts, from the nonzeros, with its exact gradients in mu, sigma and W."""

    @staticmethod
    def forward(ctx, mu, sigma, W, counts, mode, draws):
        terms = log_likelihood(counts, mu, sigma, W, mode, draws=draws, latent=True, loadings="gradient")
        ctx.save_for_backward(terms.mu, terms.sigma, terms.W)
        return mu.new_tensor(terms.value)

    @staticmethod
    def backward(ctx, gradient):
        return (*(gradient * saved for saved in ctx.saved_tensors), None, None, None)


class PoissonFactorization(torch.nn.Module):
    """``y_dn ~ Poisson(Σ_l W_dl exp(F_ln))`` with a prior of F and positive loadings W.

    Parameters
    ----------
    prior : LatentPrior
    y : Tensor, ndarray or sparse matrix of shape (d, n)
        Counts.
    L : int, default=10
        Number of factors.
    loadings_mode : {"softplus", "exp", "projected", "multiplicative"}, default="softplus"
    mode : {"expanded", "simple", "lower-bound"}, default="expanded"
    seed : int, default=0
        Of the draws and of the first W.

    Examples
    --------
    >>> import torch
    >>> from nmfbench.models.pnmf import GaussianPrior, PoissonFactorization, compute_elbo
    >>> y = torch.poisson(torch.full((12, 30), 2.0), generator=torch.Generator().manual_seed(0))
    >>> model = PoissonFactorization(GaussianPrior(y, L=2), y, L=2)
    >>> optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    >>> for step in range(100):
    ...     optimiser.zero_grad()
    ...     terms, qF, pF = model(E=2)
    ...     log_likelihood, divergence = compute_elbo("expanded", terms, qF, pF, y)
    ...     loss = divergence - log_likelihood
    ...     if step == 0:
    ...         first = loss.item()
    ...     loss.backward()
    ...     optimiser.step()
    ...     model.project_parameters()
    >>> loss.item() < first
    True
    """

    def __init__(
        self,
        prior: LatentPrior,
        y,
        L: int = 10,
        loadings_mode: str = "softplus",
        mode: str = "expanded",
        *,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise InputError(
                "PoissonFactorization: parameter mode",
                f"one of {', '.join(map(repr, MODES))}",
                repr(mode),
                "change it",
            )
        dtype = next(prior.parameters()).dtype
        self.prior = prior
        self.mode = mode
        self.D, self.N = y.shape
        self.L = L
        self.W = PositiveParameter((self.D, L), loadings_mode, generator=generator(seed, 0), dtype=dtype)
        if self.W.requires_grad:
            self.raw_W = torch.nn.Parameter(self.W.raw)
            self.W.raw = self.raw_W
        self._counts = _as_counts(y, dtype)
        self._seed, self._calls = seed, 0

    def get_rate(self, samples: torch.Tensor, idy: torch.Tensor | None = None) -> torch.Tensor:
        """Rates of draws of F: (E, k, n) to (E, d, n), of the genes `idy` where given."""
        W = self.W.data if idy is None else self.W.data[idy]
        return W @ torch.exp(samples)

    def forward(
        self,
        idx: torch.Tensor | None = None,
        idy: torch.Tensor | None = None,
        E: int = 10,
        X=None,
        coordinates: Any = None,
        groups: Any = None,
        spatial: bool = False,
    ):
        """Terms of the ELBO for the cells `idx` and the genes `idy` (None: all).

        Parameters
        ----------
        idx, idy : LongTensor or None
        E : int
            Draws; not used by ``lower-bound``.
        X : array of shape (genes, cells) or None
            Counts of these genes and cells, where others than y are meant.
        coordinates, groups
            Accepted for the reference's signature: a spatial prior here takes them at its construction.
        spatial : bool
            Whether to return ``(terms, qF, qU, pU)``: the divergence is then of the inducing values.

        Returns
        -------
        terms : dict
            ``log_likelihood``, differentiable, without ``- Σ ln Γ(x + 1)``; ``log_factorials``, that sum;
            ``exp_mu`` (k, cells), and ``exp_mu_sigma`` outside ``simple``; ``rate_sum``, the sum of the mean
            rates over genes and cells, in place of the rates.
        qF, pF : Normal of shape (k, cells)
        qU, pU : MultivariateNormal of shape (k, inducing points), of the whitened values
        """
        rows = None if idx is None else torch.as_tensor(idx)
        mu, sigma = self.prior.marginals(rows)
        counts = self._counts if X is None else _as_counts(X, mu.dtype)
        W = self.W.data if idy is None else self.W.data[idy]
        if X is None and (idx is not None or idy is not None):
            counts = counts.select(
                *(None if i is None else np.asarray(torch.as_tensor(i)) for i in (idx, idy))
            )
        self._calls += 1
        source = generator(self._seed, 1, self._calls)
        pairs = torch.randn(((E + 1) // 2, *mu.shape), generator=source, dtype=mu.dtype)
        draws = torch.stack([pairs, -pairs], dim=1).flatten(0, 1)[:E].to(mu.device)
        value = _LogLikelihood.apply(mu, sigma, W, counts, self.mode, draws)
        terms = {
            "log_likelihood": value + counts.log_factorials,
            "log_factorials": counts.log_factorials,
            "exp_mu": torch.exp(mu).T,
        }
        if self.mode != "simple":
            A = torch.exp(mu + sigma.square() / 2)
            terms["exp_mu_sigma"] = A.T
            terms["rate_sum"] = A.sum(dim=0) @ W.sum(dim=0)
        qF = Normal(mu.T, sigma.T)
        if spatial:
            return terms, qF, *self.prior.inducing_distributions()
        if not self.prior.conjugate:
            raise InputError(
                "PoissonFactorization.forward: spatial",
                "True with a prior over coordinates",
                repr(spatial),
                "pass spatial=True and take (terms, qF, qU, pU)",
            )
        return (
            terms,
            qF,
            Normal(torch.zeros_like(qF.loc), torch.as_tensor(self.prior.scale_pf).expand_as(qF.loc)),
        )

    def project_parameters(self) -> None:
        """Bring W back to where it may be, after an optimiser's step (``projected``)."""
        self.W.project()


def compute_elbo(
    mode: str, terms: dict, qF: Normal, pF: Normal, X=None, kl_fn: Callable | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Expected log-likelihood and divergence, neither scaled; the ELBO is their difference.

    `kl_fn(qF, pF)` may take the place of the divergence. `X` and `mode` are those of the forward call that
    made `terms`; they are accepted for the reference's signature.
    """
    return expected_log_likelihood(terms), (kl_fn or kl_divergence)(qF, pF)


def compute_log_likelihood_terms(
    model: PoissonFactorization, idx=None, idy=None, E: int = 10, X=None
) -> dict[str, Any]:
    """The terms of :meth:`PoissonFactorization.forward` alone."""
    return model(idx, idy, E=E, X=X)[0]


def expected_log_likelihood(terms: dict) -> torch.Tensor:
    """LL of :class:`PoissonFactorization`'s terms, the constant included."""
    return terms["log_likelihood"] - terms["log_factorials"]


def kl_divergence(qF: Distribution, pF: Distribution) -> torch.Tensor:
    """``Σ KL(q || p)`` of two normal distributions of the same shape (or of ``qU`` and ``pU``)."""
    return torch_divergence(qF, pF).sum()


def _as_counts(y, dtype: torch.dtype) -> Counts:
    """Counts, cells first, of an array that has the genes first."""
    kind = np.float64 if dtype == torch.float64 else np.float32
    if isinstance(y, torch.Tensor):
        y = y.detach().cpu().numpy()
    cells = y.T.tocsr() if sp.issparse(y) else sp.csr_array(np.ascontiguousarray(np.asarray(y).T))
    return Counts(as_sorted_csr(cells.astype(kind)))


__all__ = [
    "ConstrainedParameter",
    "PoissonFactorization",
    "PositiveParameter",
    "compute_elbo",
    "compute_log_likelihood_terms",
    "expected_log_likelihood",
    "kl_divergence",
]
