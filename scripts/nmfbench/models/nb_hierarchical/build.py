"""From settings and prepared counts to the problem and the engine that fits it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from nmfbench.models.nb_hierarchical.exact import ExactEngine, Problem
from nmfbench.models.nb_hierarchical.family import AXES, PUBLISHED_PRIORS, Family, Priors
from nmfbench.models.nb_hierarchical.likelihood import SplitLikelihood
from nmfbench.models.nb_hierarchical.preparation import Prepared
from nmfbench.models.nb_hierarchical.start import informed_forms, moments, newton_start

PRIOR_START_SD = 0.7
"""Of ``start: prior``: about the spread from which the published library starts."""


def build_problem(ready: Prepared, settings: Mapping[str, Any], seed: int, device: torch.device) -> Problem:
    """The likelihood of the prepared counts, and the family of its posterior, centred."""
    priors = PUBLISHED_PRIORS if settings["priors"] == "published" else Priors()
    n, p = ready.train.shape
    shared = settings["dispersion"] == "shared"
    family = Family(n, p, shared, priors, ready.design)
    likelihood = SplitLikelihood(
        ready.train,
        shared=shared,
        group=ready.group[ready.cells],
        n_groups=len(ready.design),
        mask=ready.mask,
        device=device,
    )
    order = np.arange(family.size)
    for name, place in family.places.items():
        if name in ("gene", "log_alpha", "cell"):
            order[place] = place.start + ready.order["cell" if name == "cell" else "gene"]
    return Problem(family, likelihood, ready.size[ready.cells], ready.length, seed, order)


def build_engine(problem: Problem, ready: Prepared, settings: Mapping[str, Any], resumed: bool) -> Any:
    """The engine at its start; one that is resumed gets its state afterwards and needs no start."""
    family = problem.family
    loc, log_sd = np.zeros(family.size), np.zeros(family.size)
    forms = dict.fromkeys(AXES, settings["param"] != "noncentred")
    if not resumed and settings["start"] == "informed":
        loc, log_sd, information = _informed(problem, ready)
        if settings["param"] == "auto":
            forms |= informed_forms(family, loc, log_sd, information)
        problem.family, loc, log_sd = family.reformed(loc, log_sd, forms, information)
    elif not resumed:
        problem.family, loc, log_sd = _at_prior(family, forms)
    rate = settings["learning_rate"]
    if settings["engine"] == "exact":
        return ExactEngine(problem, loc, log_sd, rate)
    counted = problem, ready.train, ready.mask, loc, log_sd
    if settings["engine"] == "entries":
        from nmfbench.models.nb_hierarchical.entries_engine import EntriesEngine

        return EntriesEngine(
            *counted,
            batch_size=settings["batch_size"],
            optimizer=settings["optimizer"],
            learning_rate=rate,
        )
    from nmfbench.models.nb_hierarchical.plates import PlatesEngine

    return PlatesEngine(
        *counted,
        batch_cells=settings["batch_size"],
        batch_genes=settings["batch_genes"] or ready.train.shape[1],
        guide=settings["guide"],
        learning_rate=rate,
        max_iter=settings["max_iter"],
    )


def _informed(problem: Problem, ready: Prepared) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    size = problem.size.numpy()
    n = len(size)
    kept = None if ready.mask is None else 1 - np.asarray(ready.mask.sum(axis=0)).ravel() / n
    a, log_alpha = moments(ready.train, size, kept)
    if problem.family.shared:
        log_alpha = np.array([np.median(log_alpha)])
    return newton_start(problem.family, problem.likelihood, size, ready.length, a, log_alpha)


def _at_prior(family: Family, forms: Mapping[str, bool]) -> tuple[Family, np.ndarray, np.ndarray]:
    """Every number in the middle of its prior, as the published library starts."""
    loc = np.zeros(family.size)
    priors = family.priors
    middle = {"mu_gene": priors.gene_mean, "log_sigma_gene": np.log(priors.gene_sd)}
    middle |= {"log_sigma_cell": np.log(priors.cell_sd), "log_alpha": np.log(priors.alpha_scale)}
    for k, name in enumerate(family.globals):
        loc[k] = middle.get(name, 0.0)
    if forms["gene"]:
        loc[family.places["gene"]] = priors.gene_mean
    return replace(family, forms=dict(forms)), loc, np.full(family.size, np.log(PRIOR_START_SD))
