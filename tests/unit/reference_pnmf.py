"""The objectives of Poisson factorisation as they stand on paper: dense, slow, by autograd.

Tensors are in double precision, X of shape (cells, genes), W (genes, k), mu and sigma (cells, k),
eps (draws, cells, k). Nothing here is shared with the package.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch

FLOOR = 1e-8


def log_likelihood(X, mu, sigma, W, mode, eps=None, exposure=None, gamma=None):
    """LL of a mode; exposure of shape (cells,), gamma (cells, genes) multiply the rates."""
    n, d = X.shape
    scale = torch.ones((n, d), dtype=X.dtype)
    if exposure is not None:
        scale = scale * exposure[:, None]
    if gamma is not None:
        scale = scale * gamma
    constant = torch.lgamma(X + 1).sum() - (X * scale.log()).sum()
    mean_rate = scale * (torch.exp(mu + sigma**2 / 2) @ W.T)
    if mode == "lower-bound":
        return (X * (torch.exp(mu) @ W.T).clamp(min=FLOOR).log()).sum() - mean_rate.sum() - constant
    total = 0.0
    for e in eps:
        rate = torch.exp(mu + sigma * e) @ W.T
        total = total + (X * rate.clamp(min=FLOOR).log()).sum()
        total = total - ((scale * rate).sum() if mode == "simple" else mean_rate.sum())
    return total / len(eps) - constant


def divergence(mu, sigma, scale=1.0):
    q, p = torch.distributions.Normal(mu, sigma), torch.distributions.Normal(0.0, torch.tensor(scale))
    return torch.distributions.kl_divergence(q, p).sum()


def multiplicative(X, mu, sigma, W, mode, eps=None, eta=1e-8):
    """The update of W by the book."""
    A = torch.exp(mu + sigma**2 / 2)
    if mode == "lower-bound":
        H = torch.exp(mu)
        numerator = (X / (H @ W.T + eta)).T @ H
    else:
        draws = [torch.exp(mu + sigma * e) for e in eps]
        numerator = sum((X / (H @ W.T + eta)).T @ H for H in draws) / len(draws)
        if mode == "simple":
            A = sum(draws) / len(draws)
    return (W * numerator / (A.sum(dim=0) + eta)).clamp(min=1e-8)


def deviance(X, rate):
    return 2 * (torch.xlogy(X, X / rate.clamp(min=1e-10)) - X + rate).sum()


def counts(n=60, d=40, k=4, seed=0, depth=1.0):
    """Sparse Poisson counts, the planted H and W, as CSR in double precision."""
    rng = np.random.default_rng(seed)
    H = np.exp(rng.normal(0, 1, (n, k)))
    W = rng.gamma(0.4, 1.0, (d, k)) * depth
    X = rng.poisson(H @ W.T).astype(np.float64)
    return sp.csr_matrix(X), H, W


def parameters(n, d, k, seed=0, draws=3):
    """mu, sigma, W and eps somewhere."""
    rng = np.random.default_rng(seed)
    arrays = (
        rng.normal(0, 0.7, (n, k)),
        rng.uniform(0.1, 0.9, (n, k)),
        rng.gamma(0.5, 1.0, (d, k)),
        rng.normal(0, 1, (draws, n, k)),
    )
    return tuple(torch.from_numpy(a) for a in arrays)
