"""Where the factors begin: random about the totals of cells and genes, so that patterns differ at once.

The noise is mild (a coefficient of variation of 0.3): from wilder starts the ascent ended in worse optima.
"""

from __future__ import annotations

import numpy as np
import torch

from nmfbench.models.start import parts_of_counts


def start_factors(
    csr,
    k: int,
    odds: float,
    seed: int,
    fixed_cells: np.ndarray | None,
    fixed_genes: np.ndarray | None,
    *,
    init: str = "random",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Starts of what is learnt of P and A, in double precision.

    Every pattern, constant or not, begins with an equal share of the counts.

    Parameters
    ----------
    csr : of shape (cells, genes)
    k : int
        Learnt patterns.
    odds : float
        Mean count of a theta of 1.
    seed : int
    fixed_cells, fixed_genes : ndarray of shape (cells, f), (genes, f) or None
        Constant patterns; the other side of them is learnt.
    init : {"random", "nndsvd"}
        How what is learnt on both sides begins.
    """
    rng = np.random.default_rng([seed, 0x57A7])
    totals = [np.asarray(csr.sum(axis=axis, dtype=np.float64)).ravel() for axis in (1, 0)]
    levels = [t / max(t.mean(), 1e-30) + 1e-3 for t in totals]
    # A constant pattern has its other side learnt.
    widths = [k + (0 if given is None else given.shape[1]) for given in (fixed_genes, fixed_cells)]
    P, A = (
        level[:, None] * rng.standard_gamma(10.0, (len(level), width))
        for level, width in zip(levels, widths, strict=True)
    )
    if init == "nndsvd" and k:
        P[:, P.shape[1] - k :], A[:, A.shape[1] - k :] = parts_of_counts(csr, k, rng)
    all_P = P if fixed_cells is None else np.hstack([fixed_cells, P])
    all_A = A if fixed_genes is None else np.hstack([fixed_genes, A])
    share = max(totals[0].sum(), 1.0) / odds / all_P.shape[1]
    scale = share / np.maximum(all_P.sum(0) * all_A.sum(0), 1e-300)
    if fixed_genes is not None:
        n_fixed = fixed_genes.shape[1]
        P[:, :n_fixed] *= scale[:n_fixed]
    elif fixed_cells is not None:
        n_fixed = fixed_cells.shape[1]
        A[:, :n_fixed] *= scale[:n_fixed]
    else:
        n_fixed = 0
    # Where both sides are learnt, they share the scale.
    P[:, P.shape[1] - k :] *= np.sqrt(scale[n_fixed:])
    A[:, A.shape[1] - k :] *= np.sqrt(scale[n_fixed:])
    return torch.from_numpy(P), torch.from_numpy(A)
