"""Dense, slow twins of the Bayesian models' terms, from torch's own distributions; and planted counts."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from torch import distributions as dist


def sparse_counts(n=60, g=40, density=0.25, largest=120, seed=0, dtype=np.float64):
    """Counts of which most are small and some exceed the rising factorial's reach."""
    rng = np.random.default_rng(seed)
    values = np.where(rng.random((n, g)) < 0.1, rng.integers(1, largest, (n, g)), rng.integers(1, 4, (n, g)))
    return sp.csr_matrix((values * (rng.random((n, g)) < density)).astype(dtype))


def factors(n=60, g=40, k=5, seed=0, dtype=torch.float64):
    rng = torch.Generator().manual_seed(seed)
    draws = [torch.empty(size, dtype=dtype).exponential_(generator=rng) for size in ((n, k), (g, k))]
    return [draw.requires_grad_() for draw in draws]


def negative_binomial(D, theta, p):
    """p broadcasts against D."""
    p = torch.as_tensor(p, dtype=theta.dtype).expand(D.shape)
    return dist.NegativeBinomial(theta, probs=p).log_prob(D).sum()


def poisson(D, theta):
    return dist.Poisson(theta).log_prob(D).sum()


def chi_squared(D, theta, u0=0.3, relative=0.1):
    u = torch.maximum(torch.as_tensor(u0, dtype=theta.dtype).expand(D.shape), relative * D)
    return (((theta - D) / u) ** 2).sum()


def planted(n=300, g=200, k=5, p=0.5, seed=0):
    """Counts of the model itself, rank k: cells with few active factors, genes likewise. Returns D, P, A."""
    rng = np.random.default_rng(seed)
    P = rng.gamma(0.5, 1.0, (n, k))
    A = rng.gamma(0.3, 0.8, (g, k))
    theta = P @ A.T
    D = rng.negative_binomial(np.maximum(theta, 1e-12), 1 - p)
    return sp.csr_matrix(D.astype(np.float64)), P, A


def matched_correlation(truth, found):
    """Mean correlation of the columns of two matrices, matched one to one."""
    from scipy.optimize import linear_sum_assignment

    k = truth.shape[1]
    correlation = np.corrcoef(truth.T, found.T)[:k, k:]
    rows, columns = linear_sum_assignment(-correlation)
    return correlation[rows, columns].mean()
