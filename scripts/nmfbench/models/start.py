"""Starts of the loadings W: NNDSVD or random, on the scale of the data, or as published."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import nnls

from nmfbench.linalg import SparseRows, double_device
from nmfbench.rows.memory import RowSource

STARTS = ("nndsvd", "random", "uniform")
LARGEST_SAMPLE = 20_000
"""Cells that the start is computed from, at most: a start need not see more."""

SMALLEST_SHARE = 0.01
"""Least square of a factor's scale in an NNDSVD start, as a share of the median one."""

_OVERSAMPLING, _POWER_ITERATIONS = 10, 4


def start_loadings(
    source: RowSource, k: int, kind: str, seed: int, *, unit_rows: bool, device: torch.device
) -> torch.Tensor:
    """Loadings to begin with.

    Parameters
    ----------
    source : RowSource
        The cells.
    k : int
        Number of factors.
    kind : {"nndsvd", "random", "uniform"}
        ``nndsvd``: the non-negative parts of the leading singular vectors (Boutsidis & Gallopoulos 2008,
        doi:10.1016/j.patcog.2007.09.010). ``random``: half-normal. Both are scaled such that the first
        reconstruction has the scale of the data. ``uniform``: uniform in (0, 1), as published, not scaled.
    seed : int
    unit_rows : bool
        Whether every factor is brought to unit norm (in place of the scale).
    device : torch.device

    Returns
    -------
    Tensor of shape (genes, k)
    """
    rng = np.random.default_rng([seed, 0x5747])
    p = source.n_columns
    target, device = device, double_device(device)  # the decompositions need what Metal lacks
    rows = None if kind == "uniform" else _sample(source, rng, device)
    if kind == "nndsvd":
        W = nndsvd(*leading_vectors(rows, k, rng))
    else:
        W = rng.random((p, k)) if kind == "uniform" else np.abs(rng.standard_normal((p, k)))
    W = torch.from_numpy(np.ascontiguousarray(W, dtype=source.dtype)).to(device)
    if unit_rows:
        return unit_factors(W).to(target)
    if kind == "nndsvd":
        W *= factor_scales(rows, W)
    if rows is not None:
        W.mul_(scale_to_data(rows, W))
    return W.to(target)


def start_conditions(shape: tuple[int, ...], kind: str, seed: int, W: torch.Tensor) -> torch.Tensor:
    """Weights U of the conditions to begin with, beside W: no difference between them.

    With the `kind` ``"uniform"`` they are uniform in (0, 0.01), as published.
    """
    if kind != "uniform":
        return torch.zeros(shape, dtype=W.dtype, device=W.device)
    rng = np.random.default_rng([seed, 0x55])
    U = torch.empty(shape, dtype=W.dtype)
    for part in U:  # one condition at a time: the double-precision draws are then small
        part.copy_(torch.from_numpy(rng.random(part.shape)).mul_(0.01))
    return U.to(W.device)


def nndsvd(left: np.ndarray, singular: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Non-negative gene factors of unit norm from singular triplets.

    Of each pair of vectors the positive or the negative parts are taken, whichever carry more.

    Parameters
    ----------
    left : ndarray of shape (cells, k)
    singular : ndarray of shape (k,)
        Not used by factors of unit norm; given so that a triplet stays together.
    right : ndarray of shape (genes, k)

    Returns
    -------
    ndarray of shape (genes, k)
    """
    up, un = np.maximum(left, 0), np.maximum(-left, 0)
    vp, vn = np.maximum(right, 0), np.maximum(-right, 0)
    norm = np.linalg.norm
    positive = norm(up, axis=0) * norm(vp, axis=0) >= norm(un, axis=0) * norm(vn, axis=0)
    W = np.where(positive, vp, vn)
    return W / np.maximum(norm(W, axis=0), np.finfo(W.dtype).tiny)


def parts_of_counts(csr, k: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Non-negative starts of both factors of counts, from the singular vectors of correspondence analysis.

    The vectors are those of ``R^-1/2 X C^-1/2``, R and C the totals of cells and genes: as a Poisson count
    varies as its mean, no gene leads because it is common. Of each pair the positive or the negative parts
    are taken, whichever carry more, back on the scale of the totals.

    Parameters
    ----------
    csr : of shape (cells, genes)
        Counts.
    k : int
        At most min(cells, genes).

    Returns
    -------
    cells : ndarray of shape (cells, k), float64
    genes : ndarray of shape (genes, k), float64
        Their columns' product is a factor's part of the counts, up to one number; all are positive: what
        would be zero is a hundredth of the column's share of the totals.
    """
    roots = [np.sqrt(np.asarray(csr.sum(axis=axis, dtype=np.float64)).ravel()) for axis in (1, 0)]
    scaled = csr.astype(np.float64).copy()
    scaled.data /= np.repeat(roots[0], np.diff(csr.indptr)) * roots[1][csr.indices]
    left, singular, right = leading_vectors(SparseRows(scaled), k, rng)
    halves = [[np.maximum(sign * vectors, 0) for vectors in (left, right)] for sign in (1, -1)]
    weight = [np.prod([np.linalg.norm(half, axis=0) for half in pair], axis=0) for pair in halves]
    found = []
    for positive, negative, root in zip(*halves, roots, strict=True):
        part = root[:, None] * np.where(weight[0] >= weight[1], positive, negative)
        level = root[:, None] ** 2 / max(float(np.mean(root**2)), 1e-300) + 1e-3
        mean = np.maximum(part.mean(axis=0), 1e-300)
        found.append(np.maximum(part / mean, SMALLEST_SHARE * level))
    return found[0] * singular[: found[0].shape[1]], found[1]


def leading_vectors(
    rows: SparseRows, k: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Leading singular triplets of a block of cells by randomised subspace iteration.

    Halko, Martinsson & Tropp (2011), doi:10.1137/090771806, algorithm 4.4, with the threaded products.

    Returns
    -------
    left : ndarray of shape (cells, k)
    singular : ndarray of shape (k,)
    right : ndarray of shape (genes, k)
    """
    n, p = rows.shape
    width = min(k + _OVERSAMPLING, n, p)
    probe = torch.from_numpy(rng.standard_normal((p, width))).to(rows.device, rows.dtype)
    Y = rows.times(probe)
    for _ in range(_POWER_ITERATIONS):
        Z = rows.transposed_times(torch.linalg.qr(Y).Q)
        Y = rows.times(torch.linalg.qr(Z).Q.contiguous())
    Q = torch.linalg.qr(Y).Q
    right, singular, small = torch.linalg.svd(rows.transposed_times(Q), full_matrices=False)
    left = Q @ small.T
    return tuple(a.cpu().numpy() for a in (left[:, :k], singular[:k], right[:, :k]))


def factor_scales(rows: SparseRows, W: torch.Tensor) -> torch.Tensor:
    """Scales a_l of the factors such that ``||X - Σ_l a_l² H_l W_l||²`` is least, but none near zero.

    The factors of an NNDSVD overlap, the first above all: left at one norm, they add up to a poor first
    reconstruction. The squares are a non-negative least-squares problem of k unknowns.

    Returns
    -------
    Tensor of shape (k,)
    """
    A, G = _gram_matrices(rows, W)
    squares, _ = nnls((A * G).cpu().numpy(), A.diagonal().cpu().numpy())
    if not squares.any():
        return torch.ones_like(W[0])
    # A factor that is not needed yet keeps a little weight, as it could hardly come back from nothing.
    squares = np.maximum(squares, SMALLEST_SHARE * np.median(squares[squares > 0]))
    return torch.from_numpy(np.sqrt(squares)).to(W)


def scale_to_data(rows: SparseRows, W: torch.Tensor) -> float:
    """The a that minimises ``||X - a² X Wᵀ W||²``, so that ``a W`` starts at the scale of the data."""
    A, G = _gram_matrices(rows, W)
    overlap = float((A * G).sum())
    return (float(A.trace()) / overlap) ** 0.5 if overlap > 0 else 1.0


def unit_factors(W: torch.Tensor) -> torch.Tensor:
    """Bring every factor (column of the genes x k array) to unit norm, in place."""
    return W.div_(torch.linalg.vector_norm(W, dim=0).clamp_(min=torch.finfo(W.dtype).tiny))


def _gram_matrices(rows: SparseRows, W: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``HᵀH`` and ``WᵀW`` in double precision."""
    H = rows.times(W).double()
    return H.T @ H, (W.T @ W).double()


def _sample(source: RowSource, rng: np.random.Generator, device: torch.device) -> SparseRows:
    rows = np.arange(source.n_rows)
    if source.n_rows > LARGEST_SAMPLE:
        rows = np.sort(rng.choice(source.n_rows, LARGEST_SAMPLE, replace=False))
    return SparseRows(source.rows(rows), device)
