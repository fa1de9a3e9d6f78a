"""Compiled coordinate sweeps where no gene is written from itself.

Without the diagonal of WᵀV the objective is a parabola in the loadings of one gene (docs/denoising.md), so
that each entry goes to its exact minimum. Over-relaxed steps, up to 2 times as far, lower a parabola too.
"""

from __future__ import annotations

import numpy as np

from nmfbench.compiled import compiled
from nmfbench.models.autoencoder.exact.kernels import _FAST


@compiled(fastmath=_FAST)
def _take(x, w, v, rest, A, G, kappa):
    """Take x = -1 or add x = 1 times one gene's part of A = W K Wᵀ and G = V Vᵀ.

    `rest` is the gene's K Wᵀ without the gene itself: its part of A is ``w restᵀ + rest wᵀ + κ w wᵀ``.
    """
    k = w.shape[0]
    for j in range(k):
        for l in range(k):
            G[j, l] += x * (v[j] * v[l])
            A[j, l] += x * (w[j] * rest[l] + rest[j] * w[l] + kappa * (w[j] * w[l]))


@compiled(fastmath=_FAST)
def _times(M, w, out):
    """out += M w, M symmetric."""
    k = w.shape[0]
    for j in range(k):
        if w[j] != 0.0:
            for l in range(k):
                out[l] += M[j, l] * w[j]


@compiled(fastmath=_FAST)
def _descend(w, half, H, ridge, relax):
    """Each entry of w to the minimum, not below 0, of the parabola with Hessian H + ridge and slope 2 half.

    `half` follows w; its part by the ridge is not in it.
    """
    k = w.shape[0]
    real = w.dtype.type
    for j in range(k):
        slope = half[j] + real(ridge) * w[j]
        curvature = H[j, j] + real(ridge)
        if w[j] <= 0.0 and slope >= 0.0:
            continue
        if curvature <= 0.0:  # nothing else uses this factor, and nothing keeps it from doing so
            continue
        new = max(w[j] - real(relax) * slope / curvature, real(0.0))
        t = new - w[j]
        if t == 0.0:
            continue
        w[j] = new
        for l in range(k):
            half[l] += t * H[j, l]


@compiled(fastmath=_FAST)
def sweep_blind_block(
    W, S, Y, K, A, G, ridge, relax, T, U, N, ridge_U, R, V, P, Q, delta, delta_weighted
):  # fmt: skip
    """One pass over the genes of a block: U of each condition to its closed form, W to parabolas' minima.

    The parabola of a gene's w has the Hessian ``A⁻ + κ G⁻ + ridge`` of all other genes, and of a quadratic
    penalty its curvature beside. Profiles of conditions leave it as it is, and add to the slope alone.

    Parameters
    ----------
    W, S, Y : (b, k) arrays
        Loadings of the block's genes, K Wᵀ and K (d∘W)ᵀ with d_g = ||w_g||²; W is updated, the others are
        scratch.
    K : (b, b) array
        Gram matrix of the block's genes.
    A, G : (k, k) arrays
        W K Wᵀ and W Wᵀ of all genes. Updated.
    ridge, ridge_U : float
        Penalties on W and U times the number of cells.
    relax : float
    T, U : (b, M) arrays
        Condition sums and additive profiles; M = 0 without conditions. U is updated.
    N : (M, M) array
        Cᵀ C.
    R, V : (M, k) arrays
        T Wᵀ and U Wᵀ of all genes. Updated.
    P, Q : (b, k) and (b, b) arrays
        Of a quadratic penalty tr(W Fᵀ F Wᵀ): F_bᵀ F Wᵀ and F_bᵀ F_b of the block's genes; (0, k) and (0, 0)
        without one. P is scratch.
    delta, delta_weighted : (b, k) arrays
        Overwritten with the changes of W and of d∘W.
    """
    b, k = W.shape
    n_conditions = T.shape[1]
    penalised = Q.shape[0] > 0
    real = W.dtype.type
    one = real(1.0)
    H = np.empty((k, k), W.dtype)
    half = np.empty(k, W.dtype)
    old = np.empty(k, W.dtype)
    rest = np.empty(k, W.dtype)
    for i in range(b):
        w = W[i]
        s = S[i]
        y = Y[i]
        kappa = real(K[i, i])
        for earlier in range(i):  # S, Y and P were taken before this block's earlier genes moved
            x = real(K[earlier, i])
            if x != 0.0:
                for l in range(k):
                    s[l] += x * delta[earlier, l]
                    y[l] += x * delta_weighted[earlier, l]
            if penalised:
                for l in range(k):
                    P[i, l] += Q[earlier, i] * delta[earlier, l]
        square = real(0.0)
        for l in range(k):
            old[l] = w[l]
            square += w[l] * w[l]
            rest[l] = s[l] - kappa * w[l]  # of all genes but this one
        _take(-one, w, w, rest, A, G, kappa)
        for c in range(n_conditions):  # their sums of all genes but this one
            for l in range(k):
                R[c, l] -= T[i, c] * w[l]
                V[c, l] -= U[i, c] * w[l]
        for c in range(n_conditions):
            left = T[i, c]
            for l in range(k):
                left -= R[c, l] * w[l]
            for other in range(n_conditions):
                if other != c:
                    left -= N[c, other] * U[i, other]
            # a condition without cells and without penalty leaves U free: take none
            scale = N[c, c] + real(ridge_U)
            U[i, c] = max(left / scale, real(0.0)) if scale > 0.0 else real(0.0)
        curvature = real(Q[i, i]) if penalised else real(0.0)
        # what the slope has besides H w: what the other genes, and the conditions, ask of this one
        for l in range(k):
            half[l] = -real(2.0) * rest[l] - (y[l] - kappa * square * w[l])
            if penalised:
                half[l] += P[i, l] - curvature * w[l]
        _times(G, rest, half)
        for c in range(n_conditions):
            for l in range(k):
                half[l] += T[i, c] * V[c, l] + U[i, c] * R[c, l]
        for j in range(k):
            for l in range(k):
                H[j, l] = A[j, l] + kappa * G[j, l]
            H[j, j] += curvature
        _times(H, w, half)
        _descend(w, half, H, ridge, relax)
        after = real(0.0)
        for l in range(k):
            after += w[l] * w[l]
        _take(one, w, w, rest, A, G, kappa)
        for c in range(n_conditions):
            for l in range(k):
                R[c, l] += T[i, c] * w[l]
                V[c, l] += U[i, c] * w[l]
        for l in range(k):
            delta[i, l] = w[l] - old[l]
            delta_weighted[i, l] = after * w[l] - square * old[l]


@compiled(fastmath=_FAST)
def sweep_blind_donor_block(
    W, U, S, Y, Z, K, A, G, ridge, ridge_U, relax, delta_W, delta_V, delta_weighted
):  # fmt: skip
    """One pass over the genes of a block where V_c = W + U_c writes donor c: U_c of each donor, then W.

    With A_c⁻ and G_c⁻ of all other genes, the parabola of u_cg has the Hessian ``A_c⁻ + ridge_U``, that of
    w_g ``Σ_c (A_c⁻ + κ_c G_c⁻) + ridge``.

    Parameters
    ----------
    W : (b, k) array
        Shared loadings of the block's genes, updated.
    U : (donors, b, k) array
        Loadings of each donor's own, updated.
    S, Y, Z : (donors, b, k) arrays
        K_c Wᵀ, K_c V_cᵀ and K_c (d_c∘V_c)ᵀ of the block's genes, with d_cg = w_g·v_cg; scratch.
    K : (donors, b, b) array
        Gram matrices of the block's genes.
    A, G : (donors, k, k) arrays
        W K_c Wᵀ and V_c V_cᵀ of all genes. Updated.
    ridge, ridge_U : float
        Penalties on W and U, times the number of cells.
    relax : float
    delta_W, delta_V, delta_weighted : (b, k), (donors, b, k) and (donors, b, k) arrays
        Overwritten with the changes of W, V_c and d_c∘V_c.
    """
    b, k = W.shape
    m = U.shape[0]
    real = W.dtype.type
    one = real(1.0)
    H = np.empty((k, k), W.dtype)
    half = np.empty(k, W.dtype)
    half_U = np.empty(k, W.dtype)
    old = np.empty(k, W.dtype)
    seen = np.empty(k, W.dtype)
    rest = np.empty((m, k), W.dtype)
    old_v = np.empty((m, k), W.dtype)
    overlap = np.empty(m, W.dtype)
    v = np.empty(k, W.dtype)
    for i in range(b):
        w = W[i]
        for j in range(k):
            old[j] = w[j]
            half[j] = 0.0
            for l in range(k):
                H[j, l] = 0.0
        for c in range(m):
            s = S[c, i]
            y = Y[c, i]
            z = Z[c, i]
            u = U[c, i]
            kappa = real(K[c, i, i])
            for earlier in range(i):  # the images were taken before this block's earlier genes moved
                x = real(K[c, earlier, i])
                if x != 0.0:
                    for l in range(k):
                        s[l] += x * delta_W[earlier, l]
                        y[l] += x * delta_V[c, earlier, l]
                        z[l] += x * delta_weighted[c, earlier, l]
            d = real(0.0)
            for l in range(k):
                v[l] = w[l] + u[l]
                old_v[c, l] = v[l]
                d += w[l] * v[l]
                rest[c, l] = s[l] - kappa * w[l]  # of all genes but this one
            overlap[c] = d
            _take(-one, w, v, rest[c], A[c], G[c], kappa)
            for l in range(k):
                half_U[l] = -rest[c, l]
            _times(A[c], v, half_U)
            # of W: how it writes the other genes, by those alone
            for l in range(k):
                seen[l] = rest[c, l] + kappa * w[l]
                half[l] -= (z[l] - kappa * d * v[l]) + (y[l] - kappa * v[l])
            _times(G[c], seen, half)
            _descend(u, half_U, A[c], ridge_U, relax)
            # and how this gene is written, by its donor's new loadings
            for j in range(k):
                half[j] += half_U[j]
                for l in range(k):
                    H[j, l] += A[c, j, l] + kappa * G[c, j, l]
        _descend(w, half, H, ridge, relax)
        for l in range(k):
            delta_W[i, l] = w[l] - old[l]
        for c in range(m):
            d = real(0.0)
            for l in range(k):
                v[l] = w[l] + U[c, i, l]
                d += w[l] * v[l]
            for l in range(k):
                delta_V[c, i, l] = v[l] - old_v[c, l]
                delta_weighted[c, i, l] = d * v[l] - overlap[c] * old_v[c, l]
            _take(one, w, v, rest[c], A[c], G[c], real(K[c, i, i]))
