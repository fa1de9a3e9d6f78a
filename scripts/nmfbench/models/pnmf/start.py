"""Starts of the factors, on the scale of the data."""

from __future__ import annotations

import numpy as np
import torch

from nmfbench.errors import InputError
from nmfbench.linalg import SparseRows, as_sorted_csr
from nmfbench.models.limits import seed_from
from nmfbench.models.pnmf.counts import FLOOR, Counts
from nmfbench.models.start import leading_vectors

INITS = ("random", "prior", "nndsvd", "nndsvda", "nndsvdar", "k-means")
_SPREAD = 0.3  # of ln H, in a random start
_SMALLEST_SHARE = 1e-2  # of a column's mean, in place of zeros, before logarithms are taken
_REFITS = 3


def initialize_factors(
    X,
    L: int,
    init: str | None = None,
    random_state=None,
    scale_log_mu: bool = True,
    target_std: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Factors to begin with, such that ``H Wᵀ`` has the scale of X in every gene.

    Parameters
    ----------
    X : CSR, CSC or dense of shape (n, d)
        Counts.
    L : int
        Number of factors.
    init : {"random", "prior", "nndsvd", "nndsvda", "nndsvdar", "k-means"} or None
        ``random``: W around the mean of each gene, ln H of standard deviation 0.3; ``prior``: the same with
        ln H from its prior, of standard deviation 1. ``nndsvd...``: non-negative parts of singular vectors
        (Boutsidis & Gallopoulos 2008, doi:10.1016/j.patcog.2007.09.010), zeros left, or filled with the mean
        of X (a), or with a hundredth of it at random (ar). ``k-means``: W the centres of cells, H how near
        a cell is to each. None: ``nndsvda`` where L is at most min(n, d), else ``random``.
    random_state : int, RandomState, Generator or None
    scale_log_mu : bool
        Whether ln H is brought to mean 0 in each factor (W takes the scale over), its zeros lifted, its
        standard deviation limited to `target_std`, and W fitted to the new H.
    target_std : float

    Returns
    -------
    W : ndarray of shape (d, L)
    H : ndarray of shape (n, L)

    Raises
    ------
    InputError
        For negative X, an unknown `init`, or an NNDSVD of more than min(n, d) factors.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).poisson(3.0, (20, 12)).astype(float)
    >>> W, H = initialize_factors(X, 3, init="nndsvda", random_state=0)
    >>> W.shape, H.shape
    ((12, 3), (20, 3))
    >>> bool(0.5 < (H @ W.T).mean() / X.mean() < 2)
    True
    """
    csr = as_sorted_csr(X)
    csr = csr if csr.dtype in (np.float32, np.float64) else csr.astype(np.float64)
    if csr.nnz and csr.data.min() < 0:
        raise InputError(
            "initialize_factors: Negative values in data X", "counts", f"{csr.data.min()}", "give raw counts"
        )
    W, H = start_factors(
        Counts(csr), L, init, seed_from(random_state), target_std=target_std if scale_log_mu else None
    )
    return W.numpy(), H.numpy()


def start_factors(
    counts: Counts,
    k: int,
    init: str | None,
    seed: int,
    *,
    target_std: float | None = 1.0,
    exposure: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As :func:`initialize_factors`, for counts at hand; H is per unit of `exposure`.

    Returns
    -------
    W : Tensor of shape (d, k)
    H : Tensor of shape (n, k)
    """
    csr, (n, d) = counts.csr, counts.shape
    if init is None:
        init = "nndsvda" if min(n, d) >= k else "random"
    if init not in INITS:
        raise InputError(
            "initialize_factors: parameter init",
            f"None or one of {', '.join(map(repr, INITS))}",
            repr(init),
            "set init accordingly",
        )
    if init.startswith("nndsvd") and min(n, d) < k:
        raise InputError(
            f"initialize_factors: init={init!r} with {k} factors",
            f"at most {min(n, d)} factors",
            f"X of shape {n} x {d}",
            "lower n_components, or set init='random'",
        )
    rng = np.random.default_rng([seed, 0x504E])
    build = {"random": _random, "prior": _prior, "k-means": _k_means}.get(init)
    W, H = build(csr, k, rng) if build else _nndsvd(csr, k, rng, init)
    if exposure is not None and init not in ("random", "prior"):
        H = H / np.maximum(exposure.cpu().numpy()[:, None], 1e-30)
    if target_std is not None:
        H = _level(H, W, target_std)
    W, H = (torch.from_numpy(np.ascontiguousarray(a)).to(counts.device, counts.dtype) for a in (W, H))
    return _refit(counts, W, H, exposure), H


def _random(csr, k: int, rng: np.random.Generator, spread: float = _SPREAD) -> tuple[np.ndarray, np.ndarray]:
    genes = np.asarray(csr.mean(axis=0), dtype=np.float64).ravel()
    W = np.abs(rng.standard_normal((csr.shape[1], k))) * (genes / k)[:, None]
    return W, np.exp(spread * rng.standard_normal((csr.shape[0], k)))


def _prior(csr, k: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    # Cells that differ little are drawn to the same few directions: factors then coincide, others are missed.
    return _random(csr, k, rng, 1.0)


def _nndsvd(csr, k: int, rng: np.random.Generator, kind: str) -> tuple[np.ndarray, np.ndarray]:
    if csr.nnz == 0:
        return _random(csr, k, rng)
    left, singular, right = (a.astype(np.float64) for a in leading_vectors(SparseRows(csr), k, rng))
    factors = []
    for u, s, v in zip(left.T, singular, right.T, strict=True):
        pairs = [(np.maximum(u * sign, 0), np.maximum(v * sign, 0)) for sign in (1, -1)]
        u, v = max(pairs, key=lambda pair: np.linalg.norm(pair[0]) * np.linalg.norm(pair[1]))
        norms = max(np.linalg.norm(u), 1e-30), max(np.linalg.norm(v), 1e-30)
        size = np.sqrt(s * norms[0] * norms[1])
        factors.append((size * v / norms[1], size * u / norms[0]))
    W, H = (np.stack(parts, axis=1) for parts in zip(*factors, strict=True))
    mean = csr.sum() / (csr.shape[0] * csr.shape[1])
    for array in (W, H):
        array[array < 1e-6] = 0
        empty = array == 0
        if kind == "nndsvda":
            array[empty] = mean
        elif kind == "nndsvdar":
            array[empty] = mean * np.abs(rng.standard_normal(int(empty.sum()))) / 100
    return W, H


def _k_means(csr, k: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.cluster import KMeans

    k_own = min(k, csr.shape[0])
    fit = KMeans(k_own, n_init=10, max_iter=100, random_state=int(rng.integers(2**31))).fit(csr)
    distance = fit.transform(csr).astype(np.float64)
    H = np.exp(-distance / max(distance.mean(), 1e-30))
    W = np.maximum(fit.cluster_centers_.T.astype(np.float64), 0)
    if k_own < k:  # fewer cells than factors
        more_W, more_H = _random(csr, k - k_own, rng)
        W, H = np.hstack([W, more_W]), np.hstack([H, more_H])
    return W, H / H.sum(axis=1, keepdims=True)


def _level(H: np.ndarray, W: np.ndarray, target_std: float) -> np.ndarray:
    """ln H with mean 0 and a limited spread in each factor; W takes the means over, in place."""
    scale = H.mean(axis=0)
    scale[scale <= 0] = 1.0
    logs = np.log(np.maximum(H, _SMALLEST_SHARE * scale))
    means = logs.mean(axis=0)
    W *= np.exp(means)
    logs -= means
    spread = logs.std(axis=0)
    return np.exp(logs * np.minimum(1.0, target_std / np.maximum(spread, 1e-6)))


def _refit(counts: Counts, W: torch.Tensor, H: torch.Tensor, exposure: torch.Tensor | None) -> torch.Tensor:
    """A few multiplicative updates of W: the first brings every gene's sum to that of X."""
    if exposure is not None:
        H = H * exposure[:, None]
    # A zero would stay one, and a gene that no factor holds could not be fitted.
    share = _SMALLEST_SHARE / (counts.shape[0] * W.shape[1])
    floor = share * counts.gene_sums()[:, None] / H.mean(dim=0).clamp(min=1e-30)
    W = torch.maximum(W, floor.clamp(min=FLOOR))
    for _ in range(_REFITS):
        W = poisson_update(counts, W, H, H)
    return W


def poisson_update(
    counts: Counts, W: torch.Tensor, H: torch.Tensor, mean: torch.Tensor, smallest: float = FLOOR
) -> torch.Tensor:
    """``W (X / H Wᵀ)ᵀ H / Σ_n mean``: the Poisson rule for W at fixed factors (Lee & Seung 2001)."""
    numerator = torch.zeros_like(W)
    for block in counts.blocks:
        part = H[block.rows]
        numerator += block.transposed(block.quotients(block.rates(part, W), below=True), part)
    sums = mean.sum(dim=0, dtype=torch.float64).to(W.dtype).clamp(min=1e-30)
    return (W * numerator).div_(sums).clamp_(min=smallest)
