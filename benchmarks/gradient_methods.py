"""Gradient methods for the tied model, kept for comparison with coordinate descent (docs/solvers.md).

Each takes the operator and starting loadings and yields (objective, squared error, W) after every step, so
that one loop can time them all.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from nmfbench.models.autoencoder.exact.operators import Operator, gram

Step = tuple[float, float, np.ndarray]


def tied(operator: Operator, W: np.ndarray, lambda_W: float) -> Step:
    """Objective of ae_nmf, ``||X - X Wᵀ W||²/n + λ_W ||W||²``, with ``||E||²`` and the gradient.

    The gradient is (2/n) [A W + (G - 2I) S] + 2 λ_W W.
    """
    S, A = operator.product(W)
    G = gram(np.ascontiguousarray(W.T))
    error = operator.squared_norm - 2 * np.trace(A) + float((A * G).sum())
    n = operator.n_cells
    left = A / n + lambda_W * np.eye(len(A))
    right = (G - 2 * np.eye(len(G))) / n
    gradient = 2 * (left.astype(W.dtype) @ W + right.astype(W.dtype) @ S)
    return error / n + lambda_W * float(np.trace(G)), error, gradient


def multiplicative(
    operator: Operator, W: np.ndarray, lambda_W: float, *, exponent: float = 0.5
) -> Iterator[Step]:
    """Projective multiplicative updates (Yang and Oja 2010).

    W <- W ∘ (2S / (A W + G S + n λ_W W)) ** exponent; entries that are zero stay zero, so the start is filled
    up with a hundredth of its mean.
    """
    tiny = np.finfo(W.dtype).tiny
    W = np.maximum(W, W.mean() / 100)
    ridge = lambda_W * operator.n_cells
    while True:
        S, A = operator.product(W)
        G = gram(np.ascontiguousarray(W.T))
        error = operator.squared_norm - 2 * np.trace(A) + float((A * G).sum())
        yield error / operator.n_cells + lambda_W * float(np.trace(G)), error, W
        below = A.astype(W.dtype) @ W + G.astype(W.dtype) @ S + W.dtype.type(ridge) * W
        W = W * (2 * S / np.maximum(below, tiny)) ** W.dtype.type(exponent)


def adam(operator: Operator, W: np.ndarray, lambda_W: float, *, step: float = 1e-3) -> Iterator[Step]:
    """Adam with the entries clipped to >= 0 after each step, on all cells at once."""
    first, second = np.zeros_like(W), np.zeros_like(W)
    t = 0
    while True:
        value, error, gradient = tied(operator, W, lambda_W)
        yield value, error, W
        t += 1
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * np.square(gradient)
        W = W - step * (first / (1 - 0.9**t)) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
        W = np.maximum(W, 0).astype(operator.dtype)


def accelerated(operator: Operator, W: np.ndarray, lambda_W: float) -> Iterator[Step]:
    """Accelerated projected gradient with backtracking, restarted whenever the objective would rise.

    S = W K is linear in W, so that of the extrapolated point costs no product: one product a step and trial.
    """
    n = operator.n_cells
    eye = np.eye(W.shape[0])

    def look(W: np.ndarray, S: np.ndarray, slope: bool):
        A, G = (W @ S.T).astype(np.float64), gram(np.ascontiguousarray(W.T))
        error = operator.squared_norm - 2 * np.trace(A) + float((A * G).sum())
        value = error / n + lambda_W * float(np.trace(G))
        if not slope:
            return value, error
        left, right = A / n + lambda_W * eye, (G - 2 * eye) / n
        return value, error, 2 * (left.astype(W.dtype) @ W + right.astype(W.dtype) @ S)

    S = operator.product(W)[0]
    value, error, slope = look(W, S, True)
    yield value, error, W
    point, at_point = W, value
    step, momentum = 1.0 / max(float(np.abs(slope).max()), 1e-12), 1.0
    while True:
        while True:
            new = np.maximum(point - point.dtype.type(step) * slope, 0)
            change = new - point
            new_S = operator.product(new)[0]
            new_value, new_error = look(new, new_S, False)
            bound = at_point + float((slope * change).sum()) + float(np.square(change).sum()) / (2 * step)
            if new_value <= bound + 1e-7 * abs(at_point):
                break
            step *= 0.5
        if new_value > value and momentum > 1.0:
            point, momentum = W, 1.0
            at_point, _, slope = look(W, S, True)
            continue
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        beta = W.dtype.type((momentum - 1) / following)
        point, ahead = new + beta * (new - W), new_S + beta * (new_S - S)
        at_point, _, slope = look(point, ahead, True)
        W, S, value, momentum = new, new_S, new_value, following
        yield value, new_error, W
        step *= 1.1


def lbfgsb(operator: Operator, W: np.ndarray, lambda_W: float, *, max_iter: int = 10_000) -> Iterator[Step]:
    """SciPy's L-BFGS-B in double precision; one item for every evaluation, in the order made.

    SciPy drives the iteration, so it runs in a thread that is fed through queues.
    """
    import queue
    import threading

    from scipy.optimize import minimize

    out, go = queue.Queue(), queue.Queue()

    class Stopped(Exception):
        """The caller wants no more."""

    def evaluate(x: np.ndarray):
        point = x.reshape(W.shape).astype(operator.dtype)
        value, error, gradient = tied(operator, point, lambda_W)
        out.put((value, error, point))
        if not go.get():
            raise Stopped
        return value, gradient.ravel().astype(np.float64)

    def work() -> None:
        options = {"maxiter": max_iter, "maxfun": 10 * max_iter, "maxcor": 10, "ftol": 0.0, "gtol": 0.0}
        try:
            first, bounds = W.ravel().astype(np.float64), [(0, None)] * W.size
            minimize(evaluate, first, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        except Stopped:
            pass
        finally:
            out.put(None)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (item := out.get()) is not None:
            yield item
            go.put(True)
    finally:
        go.put(False)
        thread.join(timeout=60)
