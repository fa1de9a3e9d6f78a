"""Cells from predicted rates."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from nmfbench.errors import InputError
from nmfbench.perturbation.background import Background, Prediction

ROWS = 1024  # drawn at a time


def draw_cells(
    background: Background,
    prediction: Prediction,
    n_cells: Sequence[int],
    median_totals: Sequence[float],
    *,
    seed: int,
    sampler: str = "nb",
    phase_strategy: str = "global",
    gamma_heterogeneity: float | None = None,
) -> Iterator[tuple[str, sparse.csr_matrix, np.ndarray]]:
    """Draw the cells of each target, a part at a time.

    Parameters
    ----------
    background, prediction
    n_cells, median_totals : sequence
        Of each target of the prediction: how many, and their median total count (0 leaves the depths of the
        control cells as they are).
    seed : int
        Each target has streams of its own (depths, phases, counts) from it and its name, so that its cells
        do not depend on which others are drawn, nor on what training left behind.
    sampler : {"nb", "gp_mixture", "poisson"}
        ``nb`` and ``gp_mixture`` are one law, drawn as a Poisson of a gamma.
    phase_strategy : str
        ``ignore``, ``fixed_G1``, ``fixed_S``, ``fixed_G2M``, ``global``, ``own``.
    gamma_heterogeneity : float or None
        r0 of one Gamma(r0, r0) factor for each cell.

    Yields
    ------
    name : str
    counts : csr_matrix of shape (cells, genes), float32
    phase : ndarray of shape (cells,)
        0, 1, 2.
    """
    theta = background.control.theta
    for row, name in enumerate(prediction.names):
        root = np.random.SeedSequence([seed, zlib.crc32(name.encode())])
        depths, phases, counts = (np.random.default_rng(child) for child in root.spawn(3))
        n = int(n_cells[row])
        s = size_factors(background, n, float(median_totals[row]), depths)
        phase = draw_phases(background, name, n, phase_strategy, phases, prediction.cycle is not None)
        effects = np.zeros((3, len(theta)))
        if prediction.cycle is not None:
            effects[1:] = prediction.cycle
        for start in range(0, n, ROWS):
            part = slice(start, min(start + ROWS, n))
            mu = np.exp(np.clip(prediction.log_rate[row] + effects[phase[part]], -23.0, 16.0)) * s[part, None]
            if gamma_heterogeneity is not None:
                mu *= counts.gamma(gamma_heterogeneity, 1 / gamma_heterogeneity, size=(len(mu), 1))
            if sampler != "poisson":
                mu *= counts.standard_gamma(np.broadcast_to(theta, mu.shape)) / theta
            yield name, sparse.csr_matrix(counts.poisson(mu).astype(np.float32)), phase[part]


def size_factors(background: Background, n: int, median_total: float, rng: np.random.Generator) -> np.ndarray:
    """Bootstrap the control cells' size factors and bring their median to that of the target."""
    s = rng.choice(background.control_sizes, n)
    if median_total > 0 and n:
        s = s * (median_total / background.ref_depth / np.median(s))
    return s


def draw_phases(
    background: Background, name: str, n: int, strategy: str, rng: np.random.Generator, use_cycle: bool
) -> np.ndarray:
    """Phases of the cells of a target; all G1 for a model without phases."""
    fixed = {"ignore": 0, "fixed_G1": 0, "fixed_S": 1, "fixed_G2M": 2}
    if not use_cycle or strategy in fixed:
        return np.full(n, fixed.get(strategy, 0) if use_cycle else 0)
    shares = background.phase_shares[-1]
    if strategy == "own" and name in background.targets:
        own = background.phase_shares[background.targets.index(name)]
        shares = own if own.sum() > 0 else shares
    shares = shares if shares.sum() > 0 else np.array([0.7, 0.15, 0.15])
    return rng.choice(3, n, p=shares / shares.sum())


def read_sampling_list(path: str, control: str) -> Any:
    """The published list: target_gene, n_cells, median_umi_per_cell.

    Raises
    ------
    InputError
        A column is missing, a number is none, or a target stands twice.
    """
    from nmfbench.tables.files import read_table

    columns = ("target_gene", "n_cells", "median_umi_per_cell")
    try:
        table = read_table(path, text=("target_gene",))
    except OSError as error:
        raise InputError(
            f"{path}", "a list of targets", str(error), "mend perturbation.predict_also"
        ) from None
    missing = [name for name in columns if name not in table]
    bad = [] if missing else [name for name in columns[1:] if not (table[name] >= 0).all()]
    twice = [] if missing else table["target_gene"][table["target_gene"].duplicated()].tolist()
    if missing or bad or twice:
        got = (
            f"no column {', '.join(missing)}"
            if missing
            else f"{', '.join(bad)} with values that are no counts"
            if bad
            else f"{', '.join(twice[:3])} twice"
        )
        raise InputError(
            f"{path}", f"the columns {', '.join(columns)}, a row for each target", got, "mend the list"
        )
    return table[table["target_gene"] != control].reset_index(drop=True)
