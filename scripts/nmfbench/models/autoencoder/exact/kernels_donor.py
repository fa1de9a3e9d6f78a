"""Compiled coordinate sweep of model 2, whose loadings V_c = W + U_c differ from donor to donor."""

from __future__ import annotations

import numpy as np

from nmfbench.compiled import compiled
from nmfbench.models.autoencoder.exact.kernels import _FAST, minimise_quartic


@compiled(fastmath=_FAST)
def sweep_donor_block(W, U, S, Y, K, A, G, ridge, ridge_U, relax, own, P, Q, delta_W, delta_V):
    """One pass over the genes of a block: U_c of each donor (parabolas), then W (polynomials of degree four).

    Parameters
    ----------
    W : (b, k) array
        Shared loadings of the block's genes, updated.
    U : (donors, b, k) array
        Loadings of each donor's own, updated.
    S, Y : (donors, b, k) arrays
        X_cᵀ H_c and X_cᵀ Y_c of the block's genes; scratch.
    K : (donors, b, b) array
        Gram matrices of the block's genes.
    A, G : (donors, k, k) arrays
        W K_c Wᵀ and V_c V_cᵀ, updated.
    ridge, ridge_U : float
        Penalties on W and U, times the number of cells.
    own : (donors, b) float64 array
        Squares of a gene that it shares with no other one, of each donor's cells; empty where none are told.
    P, Q : (donors, b, k) and (donors, b, b) arrays
        Of a term ``2 Σ_c tr(W Q_c V_cᵀ)``: Q_c Wᵀ and Q_c of the block's genes, (0, ...) without one. Y is
        then (X_cᵀ X_c - Q_c) V_cᵀ. P is scratch.
    delta_W, delta_V : (b, k) and (donors, b, k) arrays
        Overwritten with the change of W and of V_c.

    Returns
    -------
    int
        Number of entries that moved.
    """
    b, k = W.shape
    m = U.shape[0]
    real = W.dtype.type
    v = np.empty((m, k), W.dtype)
    Av = np.empty((m, k), W.dtype)
    Gs = np.empty((m, k), W.dtype)
    sv = np.empty(m)
    moved = 0
    told = own.shape[0] > 0
    split = Q.shape[0] > 0
    for i in range(b):
        w = W[i]
        delta_W[i, :] = 0.0
        kappas = 0.0
        for c in range(m):
            s = S[c, i]
            kappa = real(K[c, i, i])
            kappas += kappa
            delta_V[c, i, :] = 0.0
            for earlier in range(i):
                x = K[c, earlier, i]
                if x != 0.0:
                    for l in range(k):
                        s[l] += x * delta_W[earlier, l]
                        Y[c, i, l] += x * delta_V[c, earlier, l]
                if split:
                    q = Q[c, earlier, i]
                    for l in range(k):
                        P[c, i, l] += q * delta_W[earlier, l]
                        Y[c, i, l] -= q * delta_V[c, earlier, l]
            crossed = kappa  # what a move of v adds to Y
            if split:
                crossed -= Q[c, i, i]
            for l in range(k):
                v[c, l] = w[l] + U[c, i, l]
                Av[c, l] = 0.0
            for j in range(k):
                if v[c, j] != 0.0:
                    for l in range(k):
                        Av[c, l] += v[c, j] * A[c, j, l]
            for j in range(k):
                u = U[c, i, j]
                half = np.float64(Av[c, j]) - s[j] + ridge_U * u
                if told:
                    half += own[c, i] * w[j]
                if split:
                    half += P[c, i, j]
                curvature = A[c, j, j] + ridge_U
                if (u <= 0.0 and half >= 0.0) or curvature <= 0.0:
                    continue
                t = real(max(-relax * half / curvature, -u))
                if t == 0.0:
                    continue
                moved += 1
                U[c, i, j] = max(u + t, real(0.0))
                for l in range(k):
                    Av[c, l] += t * A[c, j, l]
                    G[c, j, l] += t * v[c, l]
                for l in range(k):
                    G[c, l, j] += t * v[c, l]
                G[c, j, j] += t * t
                v[c, j] += t
                Y[c, i, j] += t * crossed
                delta_V[c, i, j] += t
            total = 0.0
            for l in range(k):
                total += s[l] * v[c, l]
            sv[c] = total
            for j in range(k):
                acc = real(0.0)
                for l in range(k):
                    acc += G[c, j, l] * s[l]
                Gs[c, j] = acc
        for j in range(k):
            half = ridge * np.float64(w[j])
            for c in range(m):
                half += np.float64(Av[c, j]) + Gs[c, j] - S[c, i, j] - Y[c, i, j]
                if told:
                    half += own[c, i] * (np.float64(w[j]) + v[c, j])
                if split:
                    half += P[c, i, j]
            if w[j] <= 0.0 and half >= 0.0:
                continue
            c2 = np.float64(ridge)
            c3 = 0.0
            for c in range(m):
                kappa = np.float64(K[c, i, i])
                s_j = np.float64(S[c, i, j])
                c2 += A[c, j, j] + kappa * (G[c, j, j] - 2.0) + 2.0 * sv[c] + 2.0 * s_j * v[c, j]
                c3 += 2.0 * (s_j + kappa * v[c, j])
                if told:
                    c2 += 2.0 * own[c, i]
                if split:
                    c2 += 2.0 * Q[c, i, i]
            c1 = 2.0 * half
            low = -np.float64(w[j])
            t64 = minimise_quartic(c1, c2, c3, kappas, low)
            if relax != 1.0:
                far = max(relax * t64, low)
                if far * (c1 + far * (c2 + far * (c3 + far * kappas))) < 0.0:
                    t64 = far
            t = real(t64)
            if t == 0.0:
                continue
            moved += 1
            w[j] = max(w[j] + t, real(0.0))
            delta_W[i, j] += t
            for c in range(m):
                s = S[c, i]
                tk = t * real(K[c, i, i])
                v_new = v[c, j] + t
                s_new = s[j] + tk
                Av[c, j] += t * real(sv[c] + t * s[j]) + t * tk * v_new
                Gs[c, j] += t * real(sv[c] + tk * v[c, j]) + t * t * s_new
                for l in range(k):
                    Av[c, l] += t * (A[c, j, l] + s[l] * v_new)
                    Gs[c, l] += tk * G[c, j, l] + t * v[c, l] * s_new
                for l in range(k):
                    A[c, j, l] += t * s[l]
                    G[c, j, l] += t * v[c, l]
                for l in range(k):
                    A[c, l, j] += t * s[l]
                    G[c, l, j] += t * v[c, l]
                A[c, j, j] += t * tk
                G[c, j, j] += t * t
                sv[c] += t * s[j] + tk * v[c, j] + t * tk
                s[j] = s_new
                v[c, j] = v_new
                delta_V[c, i, j] += t
    return moved
