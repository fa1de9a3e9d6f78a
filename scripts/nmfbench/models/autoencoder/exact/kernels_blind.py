"""One coordinate sweep over a block of genes where no gene is written from itself."""

from __future__ import annotations

import numpy as np

from nmfbench.compiled import compiled
from nmfbench.models.autoencoder.exact.kernels import _FAST


@compiled(fastmath=_FAST)
def sweep_blind_block(W, S, R, K, A, G, ridge, relax, delta, delta_weighted):
    """One pass over the genes of a block: each entry of W moves to its exact minimum.

    Without the diagonal of WᵀW the objective is quadratic in the loadings w of one gene, with the Hessian
    ``A⁻ + κ G⁻ + ridge`` of all other genes, so that an entry's minimum is that of a parabola
    (docs/denoising.md). Over-relaxed steps, from 1 to below 2 times as far, lower a parabola too.

    Parameters
    ----------
    W, S, R : (b, k) arrays
        Loadings of the block's genes, K Wᵀ and K (d∘W)ᵀ with d_g = ||w_g||²; W is updated, the others are
        scratch.
    K : (b, b) array
        Gram matrix of the block's genes.
    A, G : (k, k) arrays
        W K Wᵀ and W Wᵀ of all genes. Updated.
    ridge : float
        Penalty on W times the number of cells.
    relax : float
    delta, delta_weighted : (b, k) arrays
        Overwritten with the changes of W and of d∘W.
    """
    b, k = W.shape
    real = W.dtype.type
    H = np.empty((k, k), W.dtype)
    half = np.empty(k, W.dtype)
    old = np.empty(k, W.dtype)
    rest = np.empty(k, W.dtype)
    for i in range(b):
        w = W[i]
        s = S[i]
        r = R[i]
        kappa = real(K[i, i])
        for earlier in range(i):  # S and R were taken before this block's earlier genes moved
            x = real(K[earlier, i])
            if x != 0.0:
                for l in range(k):
                    s[l] += x * delta[earlier, l]
                    r[l] += x * delta_weighted[earlier, l]
        square = real(0.0)
        for l in range(k):
            old[l] = w[l]
            square += w[l] * w[l]
        for l in range(k):  # of all genes but this one
            rest[l] = s[l] - kappa * w[l]
        for j in range(k):
            for l in range(k):
                ww = w[j] * w[l]
                G[j, l] -= ww
                A[j, l] -= w[j] * rest[l] + rest[j] * w[l] + kappa * ww
                H[j, l] = A[j, l] + kappa * G[j, l]
            H[j, j] += real(ridge)
        # the slope is H w - b; b has what the other genes ask of this one
        for l in range(k):
            half[l] = -real(2.0) * rest[l] - (r[l] - kappa * square * w[l])
        for j in range(k):
            for l in range(k):
                half[l] += G[j, l] * rest[j]
        for j in range(k):
            if w[j] != 0.0:
                for l in range(k):
                    half[l] += H[j, l] * w[j]
        for j in range(k):
            if w[j] <= 0.0 and half[j] >= 0.0:
                continue
            if H[j, j] <= 0.0:  # nothing else uses this factor, and nothing keeps it from doing so
                continue
            new = max(w[j] - real(relax) * half[j] / H[j, j], real(0.0))
            t = new - w[j]
            if t == 0.0:
                continue
            w[j] = new
            for l in range(k):
                half[l] += t * H[j, l]
        after = real(0.0)
        for l in range(k):
            after += w[l] * w[l]
        for j in range(k):
            for l in range(k):
                ww = w[j] * w[l]
                G[j, l] += ww
                A[j, l] += w[j] * rest[l] + rest[j] * w[l] + kappa * ww
        for l in range(k):
            delta[i, l] = w[l] - old[l]
            delta_weighted[i, l] = after * w[l] - square * old[l]
