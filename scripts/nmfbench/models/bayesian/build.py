"""From an estimator's parameters to the engine that fits it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from nmfbench.models.bayesian.card import MAX_ITER
from nmfbench.models.bayesian.cavi import FullAscent, Problem, StochasticAscent
from nmfbench.models.bayesian.counts import Weights
from nmfbench.models.bayesian.device_counts import place_counts
from nmfbench.models.bayesian.factor import GammaFactor, PointFactor
from nmfbench.models.bayesian.patterns import Given
from nmfbench.models.bayesian.start import start_factors
from nmfbench.models.bayesian.terms import Probability
from nmfbench.models.hidden import HiddenEntries
from nmfbench.renamed import told_value
from nmfbench.rows.batches import Sampler

POISSON_WEIGHT = 10.0
"""Of the Poisson term, beside the negative binomial's 1."""


def weights_of(estimator: Any) -> Weights:
    """The terms of the likelihood."""
    return Weights(1.0, POISSON_WEIGHT * estimator.use_pois, float(estimator.use_chisq))


def in_batches(estimator: Any, n_cells: int) -> bool:
    """Whether the fit goes by minibatches."""
    return estimator.batch_size is not None and estimator.batch_size < n_cells


def sizes_of(
    estimator: Any, csr: Any, mean_total: float | None = None, totals: np.ndarray | None = None
) -> np.ndarray | None:
    """Sizes of cells, their sums (or `totals`) over `mean_total` (by default their mean).

    None without exposure.
    """
    if estimator.exposure is None:
        return None
    sums = np.asarray(csr.sum(axis=1, dtype=np.float64)).ravel() if totals is None else totals
    mean_total = sums.mean() if mean_total is None else mean_total
    # A cell without counts says nothing about its size: take the mean one.
    return np.where(sums > 0, sums / max(mean_total, 1e-30), 1.0)


def build_problem(estimator: Any, csr: Any, given: Given, device: torch.device, mask: Any = None) -> Problem:
    """Counts in their place, and the likelihood, without the entries of `mask`."""
    stays = estimator.keep_on_cpu and in_batches(estimator, csr.shape[0])
    by = "all" if estimator.learn_probs == "fixed" else estimator.learn_probs
    size = {"all": 1, "gene": csr.shape[1], "donor": 0 if given.donors is None else len(given.donor_names)}[
        by
    ]
    precise = torch.float32 if device.type == "mps" else torch.float64
    p = torch.full((size,), float(estimator.nb_probs), dtype=precise, device=device)
    donors = torch.from_numpy(given.donors).to(device) if by == "donor" else None
    place = torch.device("cpu") if stays else device
    counts = place_counts(csr, place, None if mask is None else HiddenEntries(mask, place))
    return Problem(
        counts, weights_of(estimator), Probability(by, p, donors), estimator.learn_probs != "fixed"
    )


def build_engine(estimator: Any, problem: Problem, csr: Any, given: Given, device: torch.device) -> Any:
    """FullAscent, StochasticAscent or StochasticGradient, at its start."""
    e, n, seed = estimator, csr.shape[0], estimator.seed_
    dtype = torch.from_numpy(csr.data[:0]).dtype
    batches = in_batches(e, n)
    elsewhere = batches and not (e.inference == "svi" and not e.param_P)  # AutoNormal lies with the model
    stored = {"cpu": torch.device("cpu"), "compute": device}.get(
        e.storage_device, torch.device("cpu") if elsewhere else device
    )
    size = None if e.sizes_ is None else torch.from_numpy(e.sizes_)[:, None]
    # Within, a cell's factors are times its size: theta is their product with the genes' either way.
    of_cells = given.cells if given.cells is None or size is None else given.cells * size.numpy()
    odds = e.nb_probs / (1 - e.nb_probs)
    starts = start_factors(csr, e.n_components, odds, seed, of_cells, given.genes, init=e.init)
    starts = [start.to(dtype).to(place) for start, place in zip(starts, (stored, device), strict=True)]
    fixed = [
        None if part is None else torch.from_numpy(part).to(dtype).to(place)
        for part, place in ((of_cells, stored), (given.genes, device))
    ]
    size = None if size is None else size.to(dtype).to(stored)
    k = [start.shape[1] for start in starts]
    priors = e._priors(*k)
    sampler = Sampler("random", n, e.batch_size, seed) if batches else None
    take = _taker(problem, csr, device)
    if e.inference == "svi":
        from nmfbench.models.bayesian.svi import StochasticGradient

        return StochasticGradient(
            problem,
            starts,
            fixed,
            priors,
            seed,
            sampler,
            take,
            max_iter=told_value(e.max_iter, "svi", MAX_ITER["svi"]),
            learning_rate=e.learning_rate,
            clip_norm=e.clip_norm,
            written_out=e.param_P,
            exposure=size,
        )
    factor = PointFactor if e.inference == "map" else GammaFactor
    factors = [factor(*parts) for parts in zip(starts, fixed, priors, (size, None), strict=True)]
    if sampler is None:
        return FullAscent(problem, *factors, seed)
    return StochasticAscent(
        problem,
        *factors,
        seed,
        sampler,
        take,
        delay=e.delay,
        forgetting=e.forgetting,
        local_steps=e.local_steps,
    )


def _taker(problem: Problem, csr: Any, device: torch.device) -> Callable[[np.ndarray], Any]:
    """From row numbers to their counts on `device`."""
    if problem.counts.device == device or problem.counts.device.type == device.type:
        return problem.counts.rows
    hidden = problem.counts.hidden
    return lambda rows: place_counts(csr[rows], device, None if hidden is None else hidden.rows(rows, device))
