"""The convex case: linear maps and the identity as link, fitted to sums by L-BFGS."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from nmfbench.perturbation.nb_glm.rows import Rows

SMALL_RIDGE = 1.0
"""Ridge on what has no penalty of its own (bias, on-target term, cycle): one cell's worth of information."""


@dataclass(frozen=True)
class Bilinear:
    """Parameters of ``log mu = log mu_control + log s + bias + G K (P - centre)' + ...``.

    Attributes
    ----------
    bias : ndarray of shape (genes,)
        The shared response.
    K : ndarray of shape (width of genes, width of targets)
    centre : ndarray of shape (width of targets,)
        Weighted mean of the training targets' vectors: a target without a vector is put there.
    on_target : float
        Log fold change of the target's own gene, beyond the rest.
    cycle : ndarray of shape (2, genes)
        Of S and G2M against G1.
    objective : list of float
        By iteration.
    """

    bias: np.ndarray
    K: np.ndarray
    centre: np.ndarray
    on_target: float
    cycle: np.ndarray
    objective: list[float]

    def change(
        self,
        genes: np.ndarray,
        targets: np.ndarray,
        missing: np.ndarray,
        own: list[list[int]],
        shrinkage: float = 1.0,
        specific: float = 1.0,
    ) -> np.ndarray:
        """Log fold changes of targets, shape (targets, genes).

        Parameters
        ----------
        genes, targets : ndarray
            Their vectors.
        missing : ndarray of shape (targets,)
            Targets without a vector.
        own : list of list of int
            Genes that each target is.
        shrinkage, specific : float
            Factors of everything but the on-target term, and of the part that is the target's own.
        """
        targets = np.where(missing[:, None], 0.0, targets - self.centre)
        result = shrinkage * (self.bias + specific * (targets @ self.K.T) @ genes.T)
        for row, numbers in enumerate(own):
            result[row, numbers] += self.on_target
        return result


class Problem:
    """Objective and gradient in coordinates in which the curvature is about one.

    Parameters
    ----------
    rows : Rows
    genes : ndarray of shape (genes, width)
    targets : ndarray of shape (training targets, width)
    missing : ndarray of shape (training targets,)
        Without a vector.
    own : list of list of int
        Genes that each training target is; empty lists switch the on-target term off.
    log_control, theta : ndarray of shape (genes,)
    use_cycle : bool
    """

    def __init__(
        self,
        rows: Rows,
        genes: np.ndarray,
        targets: np.ndarray,
        missing: np.ndarray,
        own: list[list[int]],
        log_control: np.ndarray,
        theta: np.ndarray,
        use_cycle: bool,
    ) -> None:
        self.rows, self.use_cycle = rows, use_cycle
        self.base = log_control + rows.log_size[:, None]
        self.r = theta * rows.multiple[:, None]
        self.y_r = rows.counts + self.r
        mu = np.maximum(rows.counts, 0.5)
        weight = mu * self.r / (mu + self.r)  # Fisher information of the log mean
        self.gene_weight, row_weight = weight.sum(axis=0), weight.sum(axis=1)
        row_weight = row_weight / row_weight.sum()
        vectors = np.where(missing[:, None], np.nan, targets)[rows.target]
        there = ~np.isnan(vectors).any(axis=1)
        w = row_weight * there
        self.centre = (w[there] @ vectors[there]) / w.sum() if w.sum() > 0 else np.zeros(targets.shape[1])
        P = np.where(there[:, None], vectors - self.centre, 0.0)
        # rotate both sides to where the curvature, about A x B, is diagonal; a ridge does not notice
        self.a, self.rotate_genes = np.linalg.eigh(genes.T @ (self.gene_weight[:, None] * genes))
        b, rotate_targets = np.linalg.eigh(P.T @ (row_weight[:, None] * P))
        used = b > 1e-10 * max(b.max(initial=0.0), 1e-300)
        self.b, self.rotate_targets = b[used], rotate_targets[:, used]
        self.G, self.P = genes @ self.rotate_genes, P @ self.rotate_targets
        on = [(row, gene) for row, target in enumerate(rows.target) for gene in own[target]]
        self.on_rows, self.on_genes = (
            np.array(part, dtype=int) for part in (list(zip(*on, strict=True)) or ([], []))
        )
        self.on_weight = float(weight[self.on_rows, self.on_genes].sum())
        self.phases = [rows.phase == 1, rows.phase == 2]
        self.cycle_weight = np.stack([weight[mask].sum(axis=0) for mask in self.phases])
        self.shapes = [genes.shape[:1], (self.G.shape[1], self.P.shape[1]), (1,), self.cycle_weight.shape]

    def scales(self, penalty: float) -> list[np.ndarray]:
        """Step of each parameter that lowers the curvature to about one."""
        joint = np.maximum(self.a, 0)[:, None] * self.b[None, :] + penalty
        return [
            1 / np.sqrt(self.gene_weight + SMALL_RIDGE),
            1 / np.sqrt(joint),
            np.array([1 / np.sqrt(self.on_weight + SMALL_RIDGE)]),
            1 / np.sqrt(self.cycle_weight + SMALL_RIDGE),
        ]

    def split(self, x: np.ndarray) -> list[np.ndarray]:
        """bias, K (rotated), on-target, cycle from one vector."""
        ends = np.cumsum([int(np.prod(shape)) for shape in self.shapes])
        return [part.reshape(shape) for part, shape in zip(np.split(x, ends[:-1]), self.shapes, strict=True)]

    def __call__(self, x: np.ndarray, scales: list[np.ndarray], penalty: float) -> tuple[float, np.ndarray]:
        """Penalised negative log-likelihood, without constants, and its gradient."""
        scaled = self.split(x)
        bias, K, on_target, cycle = (part * scale for part, scale in zip(scaled, scales, strict=True))
        KP = self.P @ K.T  # rows x width of genes
        eta = self.base + bias + KP @ self.G.T
        eta[self.on_rows, self.on_genes] += on_target[0]
        for mask, effect in zip(self.phases, cycle, strict=True):
            if self.use_cycle:
                eta[mask] += effect
        np.clip(eta, -60.0, 60.0, out=eta)
        mu = np.exp(eta)
        both = mu + self.r
        value = float(np.sum(self.y_r * np.log(both)) - np.sum(self.rows.counts * eta))
        residual = mu * self.y_r / both - self.rows.counts
        value += 0.5 * penalty * float(np.sum(K**2))
        value += 0.5 * SMALL_RIDGE * float(np.sum(bias**2) + np.sum(on_target**2) + np.sum(cycle**2))
        gradient = [
            residual.sum(axis=0) + SMALL_RIDGE * bias,
            self.G.T @ (residual.T @ self.P) + penalty * K,
            np.array([residual[self.on_rows, self.on_genes].sum()]) * (len(self.on_rows) > 0)
            + SMALL_RIDGE * on_target,
            np.stack([residual[mask].sum(axis=0) for mask in self.phases]) * self.use_cycle
            + SMALL_RIDGE * cycle,
        ]
        flat = [(part * scale).ravel() for part, scale in zip(gradient, scales, strict=True)]
        return value, np.concatenate(flat)

    def start(self) -> list[np.ndarray]:
        """The shared response by ratios of sums; the rest zero."""
        expected = np.exp(self.base).sum(axis=0)
        bias = np.log((self.rows.counts.sum(axis=0) + 0.5) / (expected + 0.5))
        return [bias, *(np.zeros(shape) for shape in self.shapes[1:])]

    def fit(
        self,
        penalty: float,
        start: list[np.ndarray] | None = None,
        max_iter: int = 500,
        tol: float = 1e-7,
    ) -> tuple[Bilinear, list[np.ndarray]]:
        """Minimise; returns the parameters and, for a warm start of the next penalty, the rotated ones."""
        from scipy.optimize import minimize

        if np.isinf(penalty):
            return self._shared_only(max_iter, tol)
        scales = self.scales(penalty)
        begin = self.start() if start is None else start
        x = np.concatenate([(part / scale).ravel() for part, scale in zip(begin, scales, strict=True)])
        seen: list[float] = []
        found = minimize(
            lambda point: self(point, scales, penalty),
            x,
            jac=True,
            method="L-BFGS-B",
            callback=lambda intermediate_result: seen.append(float(intermediate_result.fun)),
            options={
                "maxiter": max_iter,
                "maxfun": 2 * max_iter,
                "ftol": tol * 1e-2,
                "gtol": 1e-3,
                "maxcor": 20,
            },
        )
        parts = [part * scale for part, scale in zip(self.split(found.x), scales, strict=True)]
        return self._parameters(parts, seen), parts

    def _shared_only(self, max_iter: int, tol: float) -> tuple[Bilinear, list[np.ndarray]]:
        """An infinite penalty: K is zero."""
        P, b, shapes, rotation = self.P, self.b, list(self.shapes), self.rotate_targets
        self.P, self.b = np.zeros((len(P), 0)), np.zeros(0)
        self.rotate_targets = np.zeros((len(rotation), 0))
        self.shapes[1] = (self.G.shape[1], 0)
        try:
            found, parts = self.fit(1.0, None, max_iter, tol)
        finally:
            self.P, self.b, self.shapes, self.rotate_targets = P, b, shapes, rotation
        parts[1] = np.zeros(self.shapes[1])
        return replace(found, K=np.zeros((len(self.rotate_genes), len(rotation)))), parts

    def _parameters(self, parts: list[np.ndarray], seen: list[float]) -> Bilinear:
        bias, K, on_target, cycle = parts
        K = self.rotate_genes @ K @ self.rotate_targets.T
        return Bilinear(bias, K, self.centre, float(on_target[0]), cycle, seen)
