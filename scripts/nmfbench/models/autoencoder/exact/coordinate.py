"""Exact full-batch fits of the tied models by over-relaxed coordinate descent on sufficient statistics.

The equations are those of docs/models.md, the method that of docs/solvers.md.
"""

from __future__ import annotations

import numpy as np

from nmfbench.errors import InputError
from nmfbench.models.autoencoder.exact import kernels, kernels_donor
from nmfbench.models.autoencoder.exact.conditions import ConditionSums
from nmfbench.models.autoencoder.exact.loop import SolverResult, descend
from nmfbench.models.autoencoder.exact.operators import Operator, gram
from nmfbench.models.autoencoder.exact.start import check_rank, start

RELAX = 1.8


def fit_ae_nmf(
    operator: Operator,
    n_components: int,
    *,
    lambda_W: float = 1e-2,
    init="nndsvd",
    seed: int = 0,
    max_iter: int = 500,
    tol: float = 1e-5,
    relax: float = RELAX,
    max_seconds: float | None = None,
    state: dict | None = None,
    callback=None,
    watch=None,
) -> SolverResult:
    """Minimise ||X - X Wᵀ W||²/n + λ_W ||W||² over W >= 0.

    Parameters
    ----------
    operator : Operator
        K = Xᵀ X, from `SparseOperator` or `GramOperator`.
    n_components : int
        Rank k.
    lambda_W : float
        Penalty, per cell.
    init : {"nndsvd", "random"} or (k, genes) array
    seed : int
        Of the start.
    max_iter, tol, relax, max_seconds, state, callback, watch
        See `nmfbench.models.autoencoder.exact.loop.descend`.

    Returns
    -------
    SolverResult
        With parts reconstruction and penalty_W; U is None.
    """
    ridge = lambda_W * operator.n_cells
    W = _first_loadings(operator, n_components, init, seed, ridge, state)
    problem = TiedProblem(operator, W, lambda_W=lambda_W)
    run = descend(
        problem,
        max_iter=max_iter,
        tol=tol,
        relax=relax,
        max_seconds=max_seconds,
        state=state,
        callback=callback,
        watch=watch,
    )
    return _result(problem, run, None)


def fit_cae_nmf1(
    operator: Operator,
    n_components: int,
    conditions: ConditionSums,
    *,
    lambda_W: float = 1e-2,
    lambda_U: float = 1e-1,
    gamma: float = 1e-3,
    eta: float = 5e-4,
    centred: bool = False,
    init="nndsvd",
    seed: int = 0,
    max_iter: int = 500,
    tol: float = 1e-5,
    relax: float = RELAX,
    max_seconds: float | None = None,
    state: dict | None = None,
    callback=None,
    watch=None,
) -> SolverResult:
    """Minimise ||X - X Wᵀ W - C U||²/n + λ_W ||W||² + λ_U ||U||² + (γ Inv(W) + η HSIC(W))/n over W, U >= 0.

    Parameters
    ----------
    conditions : ConditionSums
        Sums over cell types and conditions.
    lambda_W, lambda_U, gamma, eta : float
        Penalties, per cell.
    centred : bool
        Whether the invariance term leaves out the cell type's own mean.
    operator, n_components, init, seed, max_iter, tol, relax, max_seconds, state, callback, watch
        As for `fit_ae_nmf`.

    Returns
    -------
    SolverResult
        With parts reconstruction, penalty_W, penalty_U, invariance and hsic; U is (M, genes).
    """
    if conditions.sums.shape[2] != operator.n_genes:
        raise InputError(
            "condition sums", f"{operator.n_genes} genes, as in the operator", str(conditions.sums.shape[2]),
            "gather both from the same cells",
        )  # fmt: skip
    ridge = lambda_W * operator.n_cells
    W = _first_loadings(operator, n_components, init, seed, ridge, state)
    problem = TiedProblem(
        operator,
        W,
        lambda_W=lambda_W,
        conditions=conditions,
        lambda_U=lambda_U,
        gamma=gamma,
        eta=eta,
        centred=centred,
    )
    run = descend(
        problem,
        max_iter=max_iter,
        tol=tol,
        relax=relax,
        max_seconds=max_seconds,
        state=state,
        callback=callback,
        watch=watch,
    )
    return _result(problem, run, np.ascontiguousarray(problem.U.T))


def fit_cae_nmf2(
    operator: Operator,
    n_components: int,
    *,
    lambda_W: float = 1e-2,
    lambda_U: float = 5e-2,
    init="nndsvd",
    seed: int = 0,
    max_iter: int = 500,
    tol: float = 1e-5,
    relax: float = RELAX,
    max_seconds: float | None = None,
    state: dict | None = None,
    callback=None,
    watch=None,
) -> SolverResult:
    """Minimise Σ_c ||X_c - X_c Wᵀ (W + U_c)||²/n + λ_W ||W||² + λ_U ||U||² over W, U >= 0.

    Parameters
    ----------
    operator : Operator
        With one group of cells per donor.
    lambda_W, lambda_U : float
        Penalties, per cell.
    n_components, init, seed, max_iter, tol, relax, max_seconds, state, callback, watch
        As for `fit_ae_nmf`.

    Returns
    -------
    SolverResult
        With parts reconstruction, penalty_W and penalty_U; U is (donors, k, genes).
    """
    ridge = lambda_W * operator.n_cells
    W = _first_loadings(operator, n_components, init, seed, ridge, state)
    problem = DonorProblem(operator, W, lambda_W=lambda_W, lambda_U=lambda_U)
    run = descend(
        problem,
        max_iter=max_iter,
        tol=tol,
        relax=relax,
        max_seconds=max_seconds,
        state=state,
        callback=callback,
        watch=watch,
    )
    return _result(problem, run, np.ascontiguousarray(problem.U.transpose(0, 2, 1)))


class TiedProblem:
    """Objective and sweep of ae_nmf and, with conditions, cae_nmf1; W held as genes x k, U as genes x M."""

    def __init__(
        self, operator, W, *, lambda_W, conditions=None, lambda_U=0.0, gamma=0.0, eta=0.0, centred=False
    ) -> None:
        p, kind = operator.n_genes, operator.dtype
        self.operator = operator
        self.n = operator.n_cells
        self.W = np.ascontiguousarray(W.T, dtype=kind)
        self.conditional = conditions is not None
        self.lambda_W, self.lambda_U = float(lambda_W), float(lambda_U)
        if operator.n_groups != 1:
            raise InputError("operator", "one group of cells", str(operator.n_groups), "leave out the groups")
        self.T = np.zeros((p, 0), kind)
        self.N = np.zeros((0, 0), kind)
        inv = hsic = np.zeros((0, p))
        if self.conditional:
            self.T = np.ascontiguousarray(conditions.total.T, dtype=kind)
            self.N = conditions.overlap.astype(kind)
            if gamma > 0:
                inv = np.sqrt(gamma) * conditions.invariance_rows(self.n, centred=centred)
            if eta > 0:
                hsic = np.sqrt(eta) * conditions.hsic_rows()
        self.settings = {"lambda_W": self.lambda_W, "lambda_U": self.lambda_U, "gamma": float(gamma)}
        self.settings |= {"eta": float(eta), "centred": centred, "squared_norm": operator.squared_norm}
        self.n_inv = inv.shape[0]
        self.F = np.ascontiguousarray(np.concatenate([inv, hsic]).T, dtype=kind)  # genes x rows
        self._penalty: dict[int, np.ndarray] = {}
        self.U = np.zeros_like(self.T)
        size = operator.block_size
        self.blocks = [(a, min(a + size, p)) for a in range(0, p, size)]

    @property
    def n_products(self) -> float:
        return self.operator.n_products

    def arrays(self) -> dict[str, np.ndarray]:
        return {"W": self.W.T.copy(), "U": self.U.T.copy()}

    def load(self, arrays) -> None:
        self.W = np.ascontiguousarray(arrays["W"].T, dtype=self.operator.dtype)
        self.U = np.ascontiguousarray(arrays["U"].T, dtype=self.operator.dtype)

    def refresh(self) -> None:
        self.image = None  # the old one is freed before the new one is made
        self.image = self.operator.image(self.W)

    def evaluate(self) -> tuple[dict[str, float], float]:
        W, n = self.W, self.n
        self.A, self.G = self.image.inner(W)[0], gram(W)
        error = self.operator.squared_norm - 2 * np.trace(self.A) + float((self.A * self.G).sum())
        parts = {"penalty_W": self.lambda_W * float(np.trace(self.G))}
        if self.conditional:
            T, U = self.T, self.U
            self.R, self.V, self.D = gram(T, W), gram(U, W), gram(self.F, W)
            UU = gram(U)
            error += float((self.N * UU).sum() + 2 * (self.R * self.V).sum() - 2 * np.trace(gram(T, U)))
            parts["penalty_U"] = self.lambda_U * float(np.trace(UU))
            parts["invariance"] = float(np.square(self.D[: self.n_inv]).sum()) / n
            parts["hsic"] = float(np.square(self.D[self.n_inv :]).sum()) / n
        return {"reconstruction": error / n, **parts}, error / (self.operator.squared_norm or np.nan)

    def _penalty_block(self, low: int, high: int) -> np.ndarray:
        if low not in self._penalty:
            self._penalty[low] = self.F[low:high] @ self.F[low:high].T
        return self._penalty[low]

    def sweep(self, relax: float) -> None:
        kind, k = self.operator.dtype, self.W.shape[1]
        A, G = self.A.astype(kind), self.G.astype(kind)
        R = V = D = np.zeros((0, k), kind)
        if self.conditional:
            R, V, D = self.R.astype(kind), self.V.astype(kind), self.D.astype(kind)
        P, Q = np.zeros((0, k), kind), np.zeros((0, 0), kind)
        for low, high in self.blocks:
            block = slice(low, high)
            delta = np.empty((high - low, k), kind)
            if self.F.shape[1]:
                F = self.F[block]
                P, Q = F @ D, self._penalty_block(low, high)
            kernels.sweep_block(
                self.W[block], self.image.columns(low, high)[0], self.operator.diagonal_block(low, high)[0],
                A, G, self.lambda_W * self.n, relax, self.T[block], self.U[block], self.N,
                self.lambda_U * self.n, R, V, P, Q, delta,
            )  # fmt: skip
            self.image.update(low, delta[None])
            if self.F.shape[1]:
                D += F.T @ delta


class DonorProblem:
    """Objective and sweep of cae_nmf2. W is held as genes x k, U as donors x genes x k."""

    def __init__(self, operator, W, *, lambda_W, lambda_U) -> None:
        p, kind = operator.n_genes, operator.dtype
        self.operator = operator
        self.n = operator.n_cells
        self.W = np.ascontiguousarray(W.T, dtype=kind)
        self.U = np.zeros((operator.n_groups, *self.W.shape), kind)
        self.lambda_W, self.lambda_U = float(lambda_W), float(lambda_U)
        self.settings = {"lambda_W": self.lambda_W, "lambda_U": self.lambda_U}
        self.settings["squared_norm"] = operator.squared_norm
        size = operator.block_size
        self.blocks = [(a, min(a + size, p)) for a in range(0, p, size)]

    @property
    def n_products(self) -> float:
        return self.operator.n_products

    def arrays(self) -> dict[str, np.ndarray]:
        return {"W": self.W.T.copy(), "U": self.U.transpose(0, 2, 1).copy()}

    def load(self, arrays) -> None:
        self.W = np.ascontiguousarray(arrays["W"].T, dtype=self.operator.dtype)
        self.U = np.ascontiguousarray(arrays["U"].transpose(0, 2, 1), dtype=self.operator.dtype)

    def refresh(self) -> None:
        self.image_W = self.image_V = None
        self.image_W = self.operator.image(self.W)
        self.image_V = self.operator.image(self.W + self.U)

    def evaluate(self) -> tuple[dict[str, float], float]:
        self.A = self.image_W.inner(self.W)
        self.G = np.stack([gram(self.W + U) for U in self.U])
        cross = self.image_W.cross(self.W, self.image_V)
        error = self.operator.squared_norm - 2 * np.trace(cross, axis1=1, axis2=2).sum()
        error = float(error + (self.A * self.G).sum())
        parts = {
            "reconstruction": error / self.n,
            "penalty_W": self.lambda_W * float(np.square(self.W, dtype=np.float64).sum()),
            "penalty_U": self.lambda_U * float(sum(np.square(U, dtype=np.float64).sum() for U in self.U)),
        }
        return parts, error / (self.operator.squared_norm or np.nan)

    def sweep(self, relax: float) -> None:
        kind, k = self.operator.dtype, self.W.shape[1]
        A, G = self.A.astype(kind), self.G.astype(kind)
        for low, high in self.blocks:
            delta_W = np.empty((high - low, k), kind)
            delta_V = np.empty((self.operator.n_groups, high - low, k), kind)
            U = np.ascontiguousarray(self.U[:, low:high])
            kernels_donor.sweep_donor_block(
                self.W[low:high], U,
                self.image_W.columns(low, high), self.image_V.columns(low, high),
                self.operator.diagonal_block(low, high), A, G,
                self.lambda_W * self.n, self.lambda_U * self.n, relax, delta_W, delta_V,
            )  # fmt: skip
            self.U[:, low:high] = U
            self.image_W.update(low, delta_W[None])
            self.image_V.update(low, delta_V)


def _first_loadings(operator, n_components, init, seed, ridge, state) -> np.ndarray:
    if state is None:
        return start(operator, n_components, init, seed=seed, ridge=ridge)
    check_rank(n_components, operator.n_cells, operator.n_genes)
    if state["W"].shape != (n_components, operator.n_genes):
        raise InputError(
            "state", f"loadings of {n_components} x {operator.n_genes}", f"loadings of {state['W'].shape}",
            "resume with the settings the run began with, or begin anew",
        )  # fmt: skip
    return state["W"]


def _result(problem, run, U) -> SolverResult:
    history, converged, reason = run
    last = history[-1]
    parts = {k: v for k, v in last.items() if k not in _COLUMNS}
    return SolverResult(
        W=np.ascontiguousarray(problem.W.T),
        U=U,
        objective=last["objective"],
        parts=parts,
        relative_error=last["relative_error"],
        n_iter=int(last["iteration"]),
        converged=converged,
        stop_reason=reason,
        history=history,
    )


_COLUMNS = {"iteration", "objective", "relative_error", "seconds", "products"}
