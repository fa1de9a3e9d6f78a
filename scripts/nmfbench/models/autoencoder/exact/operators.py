"""What a solver may ask of the data: products with K = Xᵀ X, whole or by blocks of genes.

`GramOperator` holds K itself, so its cost does not depend on the number of cells. `SparseOperator` goes
through the nonzeros of X and suits few cells with many genes. Both may hold the cells in groups (one per
donor), and then keep one K per group.

An *image* follows a loadings matrix through a sweep: it is K Wᵀ (genes x k) for the first operator and
H = X Wᵀ (cells x k) for the second; either gives the columns of S = W K and takes changes of W by blocks.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import scipy.sparse as sp
from scipy.linalg import get_blas_funcs

from nmfbench.errors import InputError
from nmfbench.models.autoencoder.exact import kernels

_CHUNK = 4096
_PARALLEL_ABOVE = 200_000  # multiplications; below, threads take longer to start than to work


class Image(Protocol):
    """A loadings matrix seen through the data; kept up to date by `update`."""

    def columns(self, low: int, high: int) -> np.ndarray:
        """Rows low..high-1 of K Wᵀ, per group: (groups, high - low, k), a fresh array."""

    def update(self, low: int, delta: np.ndarray) -> None:
        """Follow W[low : low + b] += delta, delta (groups or 1, b, k)."""

    def inner(self, W: np.ndarray) -> np.ndarray:
        """A = W K Wᵀ per group, (groups, k, k) float64, W (genes, k) being the matrix followed."""


class Operator(Protocol):
    """K = Xᵀ X of n cells, in one or several groups of cells."""

    n_cells: int
    n_genes: int
    n_groups: int
    squared_norm: float
    dtype: np.dtype
    n_products: float

    def image(self, W: np.ndarray) -> Image:
        """Start to follow W: (genes, k), or (groups, genes, k) for loadings of each group's own."""

    def diagonal_block(self, low: int, high: int) -> np.ndarray:
        """K[low:high, low:high] per group, (groups, b, b)."""

    def product(self, W: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """S = W K (k, genes) and A = W K Wᵀ (k, k, float64) for W (k, genes)."""


def gram(M: np.ndarray, other: np.ndarray | None = None) -> np.ndarray:
    """Mᵀ M, or Mᵀ other, in float64: products of rows in chunks, summed in double precision.

    Parameters
    ----------
    M, other : (rows, k) arrays

    Returns
    -------
    (k, k) float64 array
    """
    other = M if other is None else other
    total = np.zeros((M.shape[1], other.shape[1]))
    for start in range(0, M.shape[0], _CHUNK):
        total += M[start : start + _CHUNK].T @ other[start : start + _CHUNK]
    return total


class SparseOperator:
    """K through the nonzeros of X.

    Parameters
    ----------
    X : (cells, genes) CSR matrix
        Normalised values, held as CSC with the cells in group order.
    groups : (cells,) int array, optional
        Group (donor) of each cell, 0 .. n_groups - 1.
    n_groups : int, optional
        Number of groups, where some may be empty.
    block_size : int
        Genes of one block: more of them spares calls, fewer spare corrections inside the block.
    n_parts : int
        Cells are divided into this many parts, the tasks of parallel updates. Has no influence on the result.
    n_cells : int, optional
        Cells behind the rows, where a cell has several.

    Notes
    -----
    One product costs 2 nnz k multiplications; memory 12 bytes a nonzero and cells x k for each image.
    """

    def __init__(
        self, X, *, groups=None, n_groups=None, dtype=None, block_size=64, n_parts=16, n_cells=None
    ) -> None:
        X = sp.csr_matrix(X) if not sp.issparse(X) else X.tocsr()
        self.dtype = np.dtype(dtype or X.dtype)
        self.n_rows, self.n_genes = X.shape
        self.n_cells = self.n_rows if n_cells is None else n_cells
        codes = np.zeros(self.n_rows, np.int64) if groups is None else np.asarray(groups, np.int64)
        self.n_groups = int(n_groups or (codes.max(initial=0) + 1))
        self.order = np.argsort(codes, kind="stable")
        if groups is not None:
            X = X[self.order]
        csc = X.tocsc()
        csc.sort_indices()
        self._indptr = csc.indptr.astype(np.int64)
        self._indices = csc.indices
        self._data = csc.data.astype(self.dtype, copy=False)
        self._csc = sp.csc_matrix((self._data, self._indices, self._indptr), shape=X.shape, copy=False)
        self.squared_norm = float(sum(np.square(c, dtype=np.float64).sum() for c in _chunks(self._data)))
        self.group_sizes = np.bincount(codes, minlength=self.n_groups)
        edges = np.concatenate([[0], np.cumsum(self.group_sizes)])
        self._group_bounds = self._bounds(edges)
        # parts of cells never straddle two groups
        cuts, owner = [0], []
        for c in range(self.n_groups):
            n = max(1, round(n_parts * self.group_sizes[c] / max(self.n_rows, 1)))
            inner = edges[c] + np.arange(1, n + 1) * self.group_sizes[c] // n
            cuts.extend(inner)
            owner.extend([c] * n)
        self._part_bounds = self._bounds(np.asarray(cuts))
        self._part_group = np.asarray(owner, np.int64)
        self._edges = edges
        self.block_size = block_size
        self._blocks: dict[tuple[int, int], np.ndarray] = {}
        self.n_products = 0.0

    def _bounds(self, edges: np.ndarray) -> np.ndarray:
        """Position in the CSC where each gene's nonzeros reach each edge of the cells, (edges, genes)."""
        part = np.searchsorted(edges, self._indices, side="right") - 1
        gene = np.repeat(np.arange(self.n_genes), np.diff(self._indptr))
        n_parts = len(edges) - 1
        counts = np.bincount(part * self.n_genes + gene, minlength=n_parts * self.n_genes)
        bounds = np.empty((len(edges), self.n_genes), np.int64)
        bounds[0] = self._indptr[:-1]
        np.cumsum(counts.reshape(n_parts, self.n_genes), axis=0, out=bounds[1:])
        bounds[1:] += bounds[0]
        return bounds

    def image(self, W: np.ndarray) -> SparseImage:
        return SparseImage(self, W)

    def diagonal_block(self, low: int, high: int) -> np.ndarray:
        key = (low, high)
        if key not in self._blocks:
            part = self._csc[:, low:high].tocsr()
            self._blocks[key] = np.stack(
                [(rows.T @ rows).toarray() for rows in (part[a:b] for a, b in _pairs(self._edges))]
            ).astype(self.dtype)
        return self._blocks[key]

    def product(self, W: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        image = self.image(np.ascontiguousarray(W.T, dtype=self.dtype))
        S = image.columns(0, self.n_genes).sum(axis=0)
        return np.ascontiguousarray(S.T), gram(image.Z)


class SparseImage:
    """H = X Wᵀ (cells x k, cells in group order), each group with its own W where W has three axes."""

    def __init__(self, operator: SparseOperator, W: np.ndarray) -> None:
        self._op = operator
        self.Z = np.zeros((operator.n_rows, W.shape[-1]), operator.dtype)
        self.update(0, W if W.ndim == 3 else W[None])

    def columns(self, low: int, high: int) -> np.ndarray:
        op = self._op
        out = np.empty((high - low, op.n_groups, self.Z.shape[1]), op.dtype)
        many = self._work(low, high) > _PARALLEL_ABOVE
        multiply = kernels.parallel_block_columns if many else kernels.block_columns
        multiply(op._indices, op._data, op._group_bounds, self.Z, low, out)
        op.n_products += 0.5 * (high - low) / op.n_genes
        return np.ascontiguousarray(out.transpose(1, 0, 2))

    def update(self, low: int, delta: np.ndarray) -> None:
        op = self._op
        changed = np.flatnonzero(delta.any(axis=(0, 2)))
        if not changed.size:
            return
        owner = op._part_group if delta.shape[0] > 1 else np.zeros_like(op._part_group)
        delta = np.ascontiguousarray(delta, dtype=op.dtype)
        many = self._work(low, low + delta.shape[1]) > _PARALLEL_ABOVE
        add = kernels.parallel_block_update if many else kernels.block_update
        add(op._indices, op._data, op._part_bounds, owner, low, changed, delta, self.Z)
        op.n_products += 0.5 * delta.shape[1] / op.n_genes

    def _work(self, low: int, high: int) -> int:
        """Multiplications of a block."""
        indptr = self._op._indptr
        return int(indptr[high] - indptr[low]) * self.Z.shape[1]

    def inner(self, W: np.ndarray) -> np.ndarray:
        return np.stack([gram(self.Z[a:b]) for a, b in _pairs(self._op._edges)])

    def cross(self, W: np.ndarray, other: SparseImage) -> np.ndarray:
        """W K Vᵀ per group, (groups, k, k) float64, V being the loadings the other image follows."""
        return np.stack([gram(self.Z[a:b], other.Z[a:b]) for a, b in _pairs(self._op._edges)])


class GramOperator:
    """K itself, in memory, on disk or on a GPU.

    Parameters
    ----------
    K : (genes, genes) array or (groups, genes, genes) array, or list of arrays
        Symmetric; a numpy array, a memory map or a torch tensor.
    n_cells : int
        Cells behind K, all groups together.
    squared_norm : float, optional
        ||X||²; the trace of K where absent.
    device : str
        "cpu" multiplies with BLAS; any other name moves K to that torch device, where only the small steps
        inside a block are left to the processor.
    block_size : int
        Genes of one block.

    Notes
    -----
    One product costs p² k multiplications; memory groups x p² values and groups x p x k for each image.
    """

    def __init__(self, K, *, n_cells, squared_norm=None, device="cpu", dtype=None, block_size=256) -> None:
        parts = list(K) if isinstance(K, (list, tuple)) or K.ndim == 3 else [K]
        for part in parts:
            if part.ndim != 2 or part.shape[0] != part.shape[1] or part.shape != parts[0].shape:
                raise InputError(
                    "Gram matrix", "square matrices of genes x genes, of one size", str(tuple(part.shape)),
                    "gather the statistics again",
                )  # fmt: skip
        self.device = device
        self.n_cells = int(n_cells)
        self.n_genes = int(parts[0].shape[0])
        self.n_groups = len(parts)
        self.block_size = block_size
        self.n_products = 0.0
        if device == "cpu":
            self.dtype = np.dtype(dtype or parts[0].dtype)
            self._K = [p if p.dtype == self.dtype else np.asarray(p, self.dtype) for p in parts]
        else:
            import torch

            self.dtype = np.dtype(dtype or np.float32)
            kind = torch.float64 if self.dtype == np.float64 else torch.float32
            self._K = [
                p.to(device, kind) if isinstance(p, torch.Tensor) else _sent(p, device, kind) for p in parts
            ]
        self.squared_norm = (
            float(squared_norm)
            if squared_norm is not None
            else float(sum(np.trace(np.asarray(p), dtype=np.float64) for p in parts))
        )

    def hold(self) -> None:
        """Read into memory what lies on disk."""
        if self.device == "cpu":
            self._K = [np.array(K) if isinstance(K, np.memmap) else K for K in self._K]

    def image(self, W: np.ndarray) -> GramImage:
        return GramImage(self, W)

    def diagonal_block(self, low: int, high: int) -> np.ndarray:
        return np.stack([_to_numpy(K[low:high, low:high]) for K in self._K])

    def product(self, W: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        Wt = np.ascontiguousarray(W.T, dtype=self.dtype)
        image = self.image(Wt)
        S = image.columns(0, self.n_genes).sum(axis=0)
        return np.ascontiguousarray(S.T), gram(Wt, S)

    def add_product(self, c: int, low: int, delta: np.ndarray, Z) -> None:
        """Z += K_c[:, low : low + b] delta in place. Rows of K stand for its columns: they lie together."""
        rows = self._K[c][low : low + delta.shape[0]]
        if self.device != "cpu":
            Z.addmm_(rows.T, _to_torch(delta, rows))
            return
        gemm = get_blas_funcs("gemm", dtype=self.dtype)
        # transposed views are column-major, as BLAS wants them: nothing is copied, Z is written in place
        gemm(1.0, delta.T, rows.T, beta=1.0, c=Z.T, trans_b=True, overwrite_c=True)


class GramImage:
    """K Wᵀ per group, (groups, genes, k)."""

    def __init__(self, operator: GramOperator, W: np.ndarray) -> None:
        self._op = operator
        shape = (operator.n_groups, operator.n_genes, W.shape[-1])
        if operator.device == "cpu":
            self._Z = np.zeros(shape, operator.dtype)
        else:
            self._Z = operator._K[0].new_zeros(shape)
        W = W if W.ndim == 3 else W[None]
        for low in range(0, operator.n_genes, 2048):
            self.update(low, np.ascontiguousarray(W[:, low : low + 2048], dtype=operator.dtype))

    def columns(self, low: int, high: int) -> np.ndarray:
        return np.array(_to_numpy(self._Z[:, low:high]))

    def update(self, low: int, delta: np.ndarray) -> None:
        if not delta.any():
            return
        for c in range(self._op.n_groups):
            part = np.ascontiguousarray(delta[min(c, delta.shape[0] - 1)], dtype=self._op.dtype)
            self._op.add_product(c, low, part, self._Z[c])
        self._op.n_products += delta.shape[1] / self._op.n_genes

    def inner(self, W: np.ndarray) -> np.ndarray:
        return np.stack([gram(np.ascontiguousarray(W), _to_numpy(Z)) for Z in self._Z])

    def cross(self, W: np.ndarray, other: GramImage) -> np.ndarray:
        """W K Vᵀ per group, (groups, k, k) float64, V being the loadings the other image follows."""
        return np.stack([gram(np.ascontiguousarray(W), _to_numpy(Z)) for Z in other._Z])


def _sent(K: np.ndarray, device: str, kind):
    """K on a torch device, a few rows at a time: one that lies on disk is never whole in memory."""
    import torch

    there = torch.empty(K.shape, dtype=kind, device=device)
    for low in range(0, len(K), 1024):
        there[low : low + 1024] = torch.from_numpy(np.array(K[low : low + 1024])).to(device)
    return there


def _to_numpy(array) -> np.ndarray:
    return array if isinstance(array, np.ndarray) else array.cpu().numpy()


def _to_torch(array: np.ndarray, like):
    import torch

    return torch.as_tensor(array).to(device=like.device, dtype=like.dtype)


def _pairs(edges: np.ndarray) -> list[tuple[int, int]]:
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))


def _chunks(array: np.ndarray, size: int = 1 << 22) -> list[np.ndarray]:
    return [array[i : i + size] for i in range(0, len(array), size)]
