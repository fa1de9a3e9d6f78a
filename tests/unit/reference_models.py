"""Dense, slow, readable twins of the models: the equations as they stand on paper.

Arrays are torch tensors, X of shape (cells, genes), W of shape (k, genes). Nothing here is shared with
the package.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch


def one_hot(codes: np.ndarray, size: int) -> torch.Tensor:
    """Stacked one-hots of shape (cells, size) of codes of shape (cells,) or (cells, columns)."""
    C = torch.zeros((len(codes), size), dtype=torch.float64)
    for column in np.atleast_2d(np.asarray(codes).T):
        C[torch.arange(len(codes)), torch.from_numpy(column)] = 1
    return C


def centre(A: torch.Tensor) -> torch.Tensor:
    return A - A.mean(dim=0)


def invariance(H: torch.Tensor, C: torch.Tensor, types: np.ndarray, centred: bool = False) -> torch.Tensor:
    """``Σ_t || P_t H_t ||²``; `centred` takes the type's mean out of H_t first."""
    total = H.new_zeros(())
    for t in np.unique(types):
        rows = torch.from_numpy(np.flatnonzero(types == t))
        if len(rows) < 2:
            continue
        C_t, H_t = C[rows], H[rows]
        projector = C_t @ torch.linalg.pinv(C_t)
        total = total + ((projector @ (centre(H_t) if centred else H_t)) ** 2).sum()
    return total


def hsic(H: torch.Tensor, C: torch.Tensor) -> torch.Tensor:
    return ((centre(H).T @ centre(C)) ** 2).sum()


def ae_nmf_loss(X, W, *, penalty_W, weight=1.0):
    """Objective of AE-NMF on a batch."""
    E = X @ W.T @ W - X
    return weight * (E**2).sum() / len(X) + penalty_W * (W**2).sum()


def cae_nmf1_loss(X, W, U, *, C, types, penalty_W, penalty_U, gamma=0.0, eta=0.0, centred=False, weight=1.0):
    """Objective of conditional model 1 on a batch."""
    H = X @ W.T
    E = H @ W + C @ U - X
    data = (E**2).sum() + eta * hsic(H, C)
    if gamma:
        data = data + gamma * invariance(H, C, types, centred)
    return weight * data / len(X) + penalty_W * (W**2).sum() + penalty_U * (U**2).sum()


def cae_nmf2_loss(X, W, U, *, donors, penalty_W, penalty_U, weight=1.0):
    """Objective of conditional model 2 on a batch; `donors` are codes, U has shape (donors, k, genes)."""
    H = X @ W.T
    E = torch.einsum("ik,ikg->ig", H, W + U[torch.from_numpy(donors)]) - X
    penalty = penalty_U * (U**2).sum() if np.isscalar(penalty_U) else (penalty_U * (U**2).sum((1, 2))).sum()
    return weight * (E**2).sum() / len(X) + penalty_W * (W**2).sum() + penalty


def gradients(loss, **weights: torch.Tensor) -> tuple[float, dict[str, torch.Tensor]]:
    """Value and gradients of ``loss(**weights)`` by automatic differentiation."""
    leaves = {name: w.detach().clone().requires_grad_() for name, w in weights.items()}
    value = loss(**leaves)
    value.backward()
    return float(value.detach()), {name: leaf.grad for name, leaf in leaves.items()}


def train_plainly(loss_of_batch, weights, rates, *, batches, row_norm):
    """Adam, clip, unit rows: the published training of the given batches, by automatic differentiation.

    Parameters
    ----------
    loss_of_batch : callable
        ``loss_of_batch(epoch, rows, **weights)``.
    weights : dict of str to Tensor
        The start; not changed.
    rates : dict of str to float
        Adam's learning rates.
    batches : list of list of ndarray
        The rows of each batch of each epoch.
    row_norm : bool

    Returns
    -------
    list of dict of str to Tensor
        The weights after each step.
    """
    leaves = {name: w.clone().requires_grad_() for name, w in weights.items()}
    optimiser = torch.optim.Adam([{"params": [w], "lr": rates[name]} for name, w in leaves.items()])
    trajectory = []
    for epoch, of_epoch in enumerate(batches):
        for rows in of_epoch:
            optimiser.zero_grad()
            loss_of_batch(epoch, rows, **leaves).backward()
            optimiser.step()
            with torch.no_grad():
                for w in leaves.values():
                    w.clamp_(min=0)
                if row_norm:
                    leaves["W"] /= leaves["W"].norm(dim=1, keepdim=True)
            trajectory.append({name: w.detach().clone() for name, w in leaves.items()})
    return trajectory


class DenseStep:
    """The same updates with E formed as a dense batch x genes array, for timing.

    Gradients are written out, so that no time goes to automatic differentiation; Adam is torch's.

    Parameters
    ----------
    model : {"ae_nmf", "cae_nmf1", "cae_nmf2"}
    weights : dict of str to Tensor
        ``W`` (k x genes) and ``U``; updated in place.
    rates, penalties : dict of str to float
    gamma, eta : float
        Weights of the two penalties of model 1.
    """

    def __init__(self, model, weights, rates, penalties, gamma=0.0, eta=0.0):
        self.model, self.weights, self.penalties = model, weights, penalties
        self.gamma, self.eta = gamma, eta
        self.adam = torch.optim.Adam([{"params": [w], "lr": rates[n]} for n, w in weights.items()])

    def step(self, X: torch.Tensor, donors: np.ndarray, m: int, types: np.ndarray | None = None) -> float:
        """One step; returns the value of ``||E||²`` before it."""
        W, U = self.weights["W"], self.weights.get("U")
        scale = 2 / len(X)
        H = X @ W.T
        if self.model == "ae_nmf":
            E = H @ W - X
            W.grad = scale * (H.T @ E + (E @ W.T).T @ X)
        elif self.model == "cae_nmf1":
            C = one_hot(donors, m).to(X.dtype)
            E = H @ W + C @ U - X
            through_H = E @ W.T
            if self.eta:
                centred = centre(C)
                through_H = through_H + self.eta * centred @ (centred.T @ H)
            if self.gamma:
                groups = one_hot(np.unique(types * m + donors, return_inverse=True)[1], len(X)).to(X.dtype)
                sizes = groups.sum(0).clamp(min=1)
                through_H = through_H + self.gamma * groups @ ((groups.T @ H) / sizes[:, None])
            W.grad = scale * (H.T @ E + through_H.T @ X)
            U.grad = scale * (C.T @ E) + 2 * self.penalties["U"] * U
        else:
            E = torch.empty_like(X)
            through_H = torch.empty_like(H)
            U.grad = 2 * self.penalties["U"] * U
            W.grad = torch.zeros_like(W)
            for c in np.unique(donors):
                rows = torch.from_numpy(np.flatnonzero(donors == c))
                V = W + U[c]
                E_c = H[rows] @ V - X[rows]
                through_H[rows] = E_c @ V.T
                D = scale * (H[rows].T @ E_c)
                U.grad[c] += D
                W.grad += D
                E[rows] = E_c
            W.grad += scale * (through_H.T @ X)
        W.grad += 2 * self.penalties["W"] * W
        self.adam.step()
        for w in self.weights.values():
            w.clamp_(min=0)
        return float((E * E).sum())


def planted(
    n: int = 240,
    p: int = 90,
    k: int = 4,
    donors: int = 3,
    types: int = 4,
    *,
    seed: int = 0,
    noise: float = 0.02,
):
    """Simulated cells with known factors.

    Each factor has its own block of genes; a type uses its factor mostly and another a little; donors add
    a profile of their own.

    Returns
    -------
    X : csr_array of shape (n, p)
    loadings : ndarray of shape (k, p)
        The planted factors.
    donor, type : ndarray of str of shape (n,)
    """
    rng = np.random.default_rng(seed)
    W = np.zeros((k, p))
    for l, genes in enumerate(np.array_split(np.arange(p), k)):
        W[l, genes] = rng.gamma(2.0, 1.0, len(genes))
    kind = rng.integers(types, size=n)
    H = 0.1 * rng.random((n, k))
    H[np.arange(n), kind % k] += rng.gamma(4.0, 0.5, n)
    donor = rng.integers(donors, size=n)
    profile = rng.gamma(0.5, 0.1, (donors, p))
    X = H @ W + profile[donor] + noise * rng.random((n, p))
    X[rng.random((n, p)) < 0.1] = 0
    return sp.csr_array(X), W, np.array([f"d{c}" for c in donor]), np.array([f"t {t}" for t in kind])
