"""Compiled kernels: sparse products by gene blocks and one coordinate sweep over a block of genes.

Every array of one value per gene and factor is stored genes x k here, so that the k values of a gene lie
together. Rows of equations (k x genes) of the rest of the package are the columns of these arrays.
Results do not depend on the number of threads: each output is written by one thread, in a fixed order.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from nmfbench.compiled import compiled

_FAST = {"reassoc", "contract", "nsz", "arcp"}  # all of fastmath but the promise that NaN never occurs


@compiled(fastmath=_FAST)
def minimise_quartic(c1, c2, c3, c4, low):
    """Smallest value of c1 t + c2 t² + c3 t³ + c4 t⁴ over t >= low, with low <= 0.

    Returns
    -------
    float
        The minimiser; 0.0 where no t does better than 0.
    """
    best = 0.0
    best_t = 0.0
    if c4 <= 0.0:  # an all-zero gene: at most a parabola
        if c2 > 0.0:
            return max(-c1 / (2.0 * c2), low)
        return low if c1 > 0.0 else 0.0
    # roots of the derivative t³ + b t² + c t + d, by Viete's and Cardano's formulas
    b = 0.75 * c3 / c4
    c = 0.5 * c2 / c4
    d = 0.25 * c1 / c4
    q = (b * b - 3.0 * c) / 9.0
    r = (2.0 * b * b * b - 9.0 * b * c + 27.0 * d) / 54.0
    n_roots = 1
    angle = 0.0
    if r * r < q * q * q:
        n_roots = 3
        angle = np.arccos(r / np.sqrt(q * q * q))
    for i in range(n_roots):
        if n_roots == 3:
            t = -2.0 * np.sqrt(q) * np.cos((angle + 2.0 * np.pi * (i - 1)) / 3.0) - b / 3.0
        else:
            size = (abs(r) + np.sqrt(max(r * r - q * q * q, 0.0))) ** (1.0 / 3.0)
            root = -size if r > 0.0 else size
            t = root + (q / root if root != 0.0 else 0.0) - b / 3.0
        # the closed form cancels where |t| is small against b: one Newton step mends that
        slope = 2.0 * c2 + t * (6.0 * c3 + 12.0 * c4 * t)
        if slope > 0.0:
            t -= (c1 + t * (2.0 * c2 + t * (3.0 * c3 + 4.0 * c4 * t))) / slope
        t = max(t, low)
        value = t * (c1 + t * (c2 + t * (c3 + t * c4)))
        if value < best:
            best = value
            best_t = t
    return best_t


@compiled(fastmath=_FAST)
def _columns_of_gene(indices, data, bounds, Z, gene, out):
    """out[c] = Σ_i x_ig Z_i over the cells of each group c; (groups, k)."""
    n_groups, k = out.shape
    for c in range(n_groups):
        for l in range(k):
            out[c, l] = 0.0
        for e in range(bounds[c, gene], bounds[c + 1, gene]):
            x = data[e]
            row = indices[e]
            for l in range(k):
                out[c, l] += x * Z[row, l]


@compiled(fastmath=_FAST)
def _update_part(indices, data, bounds, part, group, low, changed, delta, Z):
    """Z_i += Σ_g x_ig delta_g over the changed genes and the cells of one part."""
    k = Z.shape[1]
    for at in range(changed.shape[0]):
        gene = low + changed[at]
        for e in range(bounds[part, gene], bounds[part + 1, gene]):
            x = data[e]
            row = indices[e]
            for l in range(k):
                Z[row, l] += x * delta[group, changed[at], l]


# Two compilations of each loop: threads cost more than they save on blocks of little work.


@compiled()
def block_columns(indices, data, bounds, Z, low, out):
    """Group sums Σ_i x_ig Z_i for a block of genes.

    Parameters
    ----------
    indices, data : arrays
        CSC of X, cells in group order.
    bounds : (groups + 1, genes) int64 array
        Where each gene's nonzeros pass from one group of cells to the next.
    Z : (cells, k) array
    low : int
        First gene of the block.
    out : (block, groups, k) array
        Overwritten.
    """
    for i in range(out.shape[0]):
        _columns_of_gene(indices, data, bounds, Z, low + i, out[i])


@compiled(parallel=True)
def parallel_block_columns(indices, data, bounds, Z, low, out):
    """`block_columns` with one task a gene."""
    for i in prange(out.shape[0]):
        _columns_of_gene(indices, data, bounds, Z, low + i, out[i])


@compiled()
def block_update(indices, data, bounds, owner, low, changed, delta, Z):
    """Z_i += Σ_g x_ig delta_g over the changed genes of a block, in place.

    Parameters
    ----------
    bounds : (parts + 1, genes) int64 array
        Where each gene's nonzeros pass from one part of the cells to the next.
    owner : (parts,) int64 array
        The row of delta that a part takes.
    changed : (c,) int64 array
        Genes, counted from `low`, that have a nonzero delta.
    delta : (groups or 1, block, k) array
    """
    for part in range(owner.shape[0]):
        _update_part(indices, data, bounds, part, owner[part], low, changed, delta, Z)


@compiled(parallel=True)
def parallel_block_update(indices, data, bounds, owner, low, changed, delta, Z):
    """`block_update` with one task a part of the cells."""
    for part in prange(owner.shape[0]):
        _update_part(indices, data, bounds, part, owner[part], low, changed, delta, Z)


@compiled(fastmath=_FAST)
def sweep_block(W, S, K, A, G, ridge, relax, T, U, N, ridge_U, R, V, P, Q, delta):
    """One pass over the genes of a block: each entry of W moves to its exact minimum, U to its closed form.

    With t added to entry j of a gene's loadings w, A = W K Wᵀ and G = W Wᵀ change by terms up to t², so the
    objective is a polynomial of degree four in t whose coefficients cost O(k) (see docs/solvers.md).
    Over-relaxation (`relax` > 1) goes that many times as far where this still lowers the objective.

    Parameters
    ----------
    W, S : (b, k) arrays
        Loadings and (Xᵀ H) of the block's genes; W is updated, S is scratch.
    K : (b, b) array
        Gram matrix of the block's genes.
    A, G : (k, k) arrays
        Updated.
    ridge, ridge_U : float
        Penalties on W and U, times the number of cells.
    T, U : (b, M) arrays
        Condition sums and additive profiles; M = 0 without conditions. U is updated.
    N : (M, M) array
        Cᵀ C.
    R, V : (M, k) arrays
        T Wᵀ and U Wᵀ. Updated.
    P, Q : (b, k) and (b, b) arrays
        Of a quadratic penalty tr(W Fᵀ F Wᵀ): F_bᵀ F Wᵀ and F_bᵀ F_b of the block's genes; (0, k) and (0, 0)
        without one. P is scratch.
    delta : (b, k) array
        Overwritten with the change of W.

    Returns
    -------
    int
        Number of entries that moved.
    """
    b, k = W.shape
    n_conditions = T.shape[1]
    penalised = Q.shape[0] > 0
    real = W.dtype.type
    Aw = np.empty(k, W.dtype)
    Gs = np.empty(k, W.dtype)
    linear = np.empty(k, W.dtype)
    moved = 0
    for i in range(b):
        w = W[i]
        s = S[i]
        kappa = real(K[i, i])
        delta[i, :] = 0.0
        for earlier in range(i):  # S was taken before this block's earlier genes moved
            if K[earlier, i] != 0.0:
                x = K[earlier, i]
                for l in range(k):
                    s[l] += x * delta[earlier, l]
            if penalised:
                for l in range(k):
                    P[i, l] += Q[earlier, i] * delta[earlier, l]
        # U of this gene, entry by entry: its closed form where N is diagonal (one condition column)
        tu = 0.0
        for c in range(n_conditions):
            rest = T[i, c]
            for l in range(k):
                rest -= R[c, l] * w[l]
            for other in range(n_conditions):
                if other != c:
                    rest -= N[c, other] * U[i, other]
            # a condition without cells and without penalty leaves U free: take none
            scale = N[c, c] + ridge_U
            new = max(rest / scale, real(0.0)) if scale > 0.0 else real(0.0)
            change = real(new - U[i, c])
            if change != 0.0:
                U[i, c] = new
                for l in range(k):
                    V[c, l] += change * w[l]
            tu += T[i, c] * U[i, c]
        for l in range(k):
            linear[l] = P[i, l] if penalised else real(0.0)
        for c in range(n_conditions):
            for l in range(k):
                linear[l] += T[i, c] * V[c, l] + U[i, c] * R[c, l]
        curvature = ridge + 2.0 * tu + (Q[i, i] if penalised else 0.0)
        sw = 0.0
        for l in range(k):
            sw += s[l] * w[l]
            Aw[l] = 0.0
        for j in range(k):
            if w[j] != 0.0:
                for l in range(k):
                    Aw[l] += w[j] * A[j, l]
        for j in range(k):
            acc = real(0.0)
            for l in range(k):
                acc += G[j, l] * s[l]
            Gs[j] = acc
        for j in range(k):
            half = np.float64(Aw[j]) + Gs[j] - 2.0 * s[j] + ridge * w[j] + linear[j]
            if w[j] <= 0.0 and half >= 0.0:
                continue
            c1 = 2.0 * half
            c2 = A[j, j] + kappa * (G[j, j] - 2.0) + 2.0 * sw + 2.0 * s[j] * w[j] + curvature
            c3 = 2.0 * (np.float64(s[j]) + kappa * w[j])
            c4 = np.float64(kappa)
            low = -np.float64(w[j])
            t64 = minimise_quartic(c1, c2, c3, c4, low)
            if relax != 1.0:
                far = max(relax * t64, low)
                if far * (c1 + far * (c2 + far * (c3 + far * c4))) < 0.0:
                    t64 = far
            t = real(t64)
            if t == 0.0:
                continue
            moved += 1
            w_new = max(w[j] + t, real(0.0))
            s_new = s[j] + t * kappa
            tk = t * kappa
            Aw[j] += t * real(sw + t * s[j]) + t * tk * w_new
            Gs[j] += t * real(sw + tk * w[j]) + t * t * s_new
            for l in range(k):
                Aw[l] += t * (A[j, l] + s[l] * w_new)
                Gs[l] += tk * G[j, l] + t * w[l] * s_new
            for l in range(k):
                A[j, l] += t * s[l]
                G[j, l] += t * w[l]
            for l in range(k):
                A[l, j] += t * s[l]
                G[l, j] += t * w[l]
            A[j, j] += t * tk
            G[j, j] += t * t
            sw += t * s[j] + tk * w[j] + t * tk
            s[j] = s_new
            w[j] = w_new
            delta[i, j] += t
        for c in range(n_conditions):
            for l in range(k):
                R[c, l] += delta[i, l] * T[i, c]
                V[c, l] += delta[i, l] * U[i, c]
    return moved
