"""Coordinate ascent in closed form: all cells at once, or by minibatches (stochastic variational inference).

A negative binomial count is a sum of logarithmic clusters, a Poisson number of them (Zhou & Carin 2015,
IEEE TPAMI 37:307); the clusters split over the patterns as a multinomial. The bound that follows has gamma
posteriors in closed form: with ``w = psi(d + t) - psi(t)`` at ``t = P~ A~ᵀ``, x~ = exp(E ln x),

* P: shape = a + P~ o (S(w) A~), rate = b + Σ_g c E A;   A: the same with the sides changed;
* ELBO = Σ [lnG(d + t) - lnG(t)] + const - Σ c E theta - KL(P) - KL(A), which no update lowers.

Minibatches follow Hoffman et al. (2013, JMLR 14:1303): exact updates of the batch's cells, then a step of the
genes' shape and rate towards what the batch, weighted by cells / batch, would make them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nmfbench.models.bayesian.counts import Weights
from nmfbench.models.bayesian.factor import GammaFactor
from nmfbench.models.bayesian.posterior import Marginals, Posterior
from nmfbench.models.bayesian.prior import GammaPrior
from nmfbench.models.bayesian.terms import Probability, column_sums, constant
from nmfbench.rows.batches import Sampler

BLOCK_ROWS = 4096


@dataclass
class Problem:
    """The data and the likelihood of a fit.

    Attributes
    ----------
    counts : CellCounts or DeviceCounts
    weights : Weights
    probability : Probability
    learn_p : bool
        Whether p is set to its optimum as the fit goes on.
    """

    counts: Any
    weights: Weights
    probability: Probability
    learn_p: bool = False

    def costs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What a theta costs, of both terms that are linear at zeros: the cells' part times the genes'."""
        cells, genes = self.probability.cell_cost(), self.probability.gene_cost()
        # With a Poisson term, p is 1/2 throughout (the estimator sees to it): both are one number.
        return self.weights.negative_binomial * cells + self.weights.poisson, genes


def load_of_cells(counts: Any, A: torch.Tensor) -> torch.Tensor:
    """``Σ_g A_g`` over the genes of a cell that are fitted: (k,), or (cells, k) with hidden entries."""
    return column_sums(A) if counts.hidden is None else column_sums(A).to(A) - counts.hidden.of_cells(A)


def load_of_genes(counts: Any, P: torch.Tensor) -> torch.Tensor:
    """``Σ_i P_i`` over the cells of a gene that are fitted: (k,), or (genes, k) with hidden entries."""
    return column_sums(P) if counts.hidden is None else column_sums(P).to(P) - counts.hidden.of_genes(P)


class Ascent:
    """What both kinds of ascent share: the factors, the ELBO, and their state."""

    def __init__(self, problem: Problem, cells: GammaFactor, genes: GammaFactor, seed: int) -> None:
        self.problem, self.cells, self.genes, self.seed = problem, cells, genes, seed

    @property
    def priors(self) -> tuple[GammaPrior, GammaPrior]:
        """Of the cells and of the genes."""
        return self.cells.prior, self.genes.prior

    def posterior(self) -> Posterior:
        """The present posterior; arrays are shared."""
        return Posterior.of(
            self.cells.marginals(), self.genes.marginals(), self.priors, self.problem.probability
        )

    def state(self) -> dict[str, np.ndarray]:
        """What a checkpoint keeps."""
        arrays = {"p": self.problem.probability.p.cpu().numpy()}
        for name, factor in (("cells", self.cells), ("genes", self.genes)):
            arrays |= {f"{name}.shape": factor.shape.cpu().numpy(), f"{name}.rate": factor.rate.cpu().numpy()}
            arrays[f"{name}.prior"] = torch.stack([factor.prior.shape, factor.prior.rate]).numpy()
        return arrays

    def load_state(self, arrays: dict[str, np.ndarray]) -> None:
        """Go on from a checkpoint."""
        probability = self.problem.probability
        probability.p = torch.from_numpy(arrays["p"]).to(probability.p)
        for name, factor in (("cells", self.cells), ("genes", self.genes)):
            factor.shape = torch.from_numpy(arrays[f"{name}.shape"]).to(factor.mean)
            factor.rate = torch.from_numpy(arrays[f"{name}.rate"]).to(factor.mean)
            factor.prior.shape, factor.prior.rate = torch.from_numpy(arrays[f"{name}.prior"])
            factor.refresh()

    def _parts(self, value: float) -> dict[str, float]:
        """The negative ELBO of a cell, in its parts; `value` is the walk's at the present factors."""
        problem = self.problem
        cell_cost, gene_cost = problem.costs()
        loads = column_sums(cell_cost.to(self.cells.mean) * self.cells.mean).to(self.genes.mean.device)
        loads = float(loads @ column_sums(gene_cost.to(self.genes.mean) * self.genes.mean))
        if problem.counts.hidden is not None:
            place = problem.counts.device
            sides = [
                (cost.to(side.mean) * side.mean).to(place)
                for cost, side in ((cell_cost, self.cells), (gene_cost, self.genes))
            ]
            loads -= float(problem.counts.hidden.inner(*sides))
        likelihood = value + constant(problem.counts, problem.weights, problem.probability) - loads
        n = problem.counts.shape[0]
        return {
            "likelihood": -likelihood / n,
            "divergence_cells": self.cells.divergence() / n,
            "divergence_genes": self.genes.divergence() / n,
        }

    def _update_hyperparameters(self) -> None:
        for factor in (self.cells, self.genes):
            factor.prior.update(factor.sums)
        if self.problem.learn_p:
            self.problem.probability.update(self.problem.counts, self.cells.mean, self.genes.mean)


class FullAscent(Ascent):
    """Sweeps over all cells."""

    is_exact = may_converge = True

    def __init__(self, problem: Problem, cells: GammaFactor, genes: GammaFactor, seed: int) -> None:
        super().__init__(problem, cells, genes, seed)
        self.sweeps = 0
        self._walk()

    @property
    def clock(self) -> tuple[float, int]:
        """Epochs and steps so far."""
        return self.sweeps, self.sweeps

    def advance(self, pause: Any = None) -> dict[str, float]:
        """One sweep: cells, genes, priors and p. Returns the parts of the negative ELBO after it.

        A sweep is not left half done: `pause` is not asked.
        """
        counts, weights = self.problem.counts, self.problem.weights
        cell_cost, gene_cost = (cost.to(self.cells.mean) for cost in self.problem.costs())
        self.cells.update(self._statistics, cell_cost, load_of_cells(counts, gene_cost * self.genes.mean))
        if self.genes.shape.shape[1]:
            _, statistics = counts.genes_walk(self.cells.tilde, self.genes.tilde, weights)
            self.genes.update(statistics, gene_cost, load_of_genes(counts, cell_cost * self.cells.mean))
        self._update_hyperparameters()
        self._walk()
        self.sweeps += 1
        return self._parts(self._value)

    def state(self) -> dict[str, np.ndarray]:
        return super().state() | {"clock": np.array(self.sweeps)}

    def load_state(self, arrays: dict[str, np.ndarray]) -> None:
        super().load_state(arrays)
        self.sweeps = int(arrays["clock"])
        self._walk()

    def _walk(self) -> None:
        # The statistics of the next sweep; the bound at the present factors comes with them.
        self._value, self._statistics = self.problem.counts.cells_walk(
            self.cells.tilde, self.genes.tilde, self.problem.weights, True
        )


class StochasticAscent(Ascent):
    """Passes over the cells in minibatches.

    Parameters
    ----------
    problem, cells, genes
        The cells' factor may lie on another device than the genes'.
    sampler : Sampler
        Batches of each epoch.
    batch_counts : callable
        From row numbers to their counts where the genes' factor lies.
    delay, forgetting : float
        Step t moves the genes by the share ``(t + delay) ** -forgetting``.
    local_steps : int
        Updates of the batch's cells before the genes move.
    """

    is_exact, may_converge = False, True

    def __init__(
        self,
        problem: Problem,
        cells: GammaFactor,
        genes: GammaFactor,
        seed: int,
        sampler: Sampler,
        batch_counts: Any,
        *,
        delay: float,
        forgetting: float,
        local_steps: int,
    ) -> None:
        super().__init__(problem, cells, genes, seed)
        self.sampler, self.batch_counts = sampler, batch_counts
        self.delay, self.forgetting, self.local_steps = delay, forgetting, local_steps
        self.cells.rate = self.cells.rate.expand_as(self.cells.shape).clone()
        self.step_number = self.epoch = self.batch = 0

    @property
    def clock(self) -> tuple[float, int]:
        """Whole epochs and steps so far."""
        return self.epoch, self.step_number

    def advance(self, pause: Any = None) -> dict[str, float] | None:
        """One epoch, or None when it was stopped within."""
        batches = self.sampler.epoch(self.epoch)
        while self.batch < len(batches):
            self.step(batches[self.batch].rows)
            self.batch += 1
            if pause is not None and self.batch < len(batches) and pause():
                return None
        self.epoch, self.batch = self.epoch + 1, 0
        self.cells.refresh()
        self.genes.refresh()
        self._update_hyperparameters()
        return self._parts(self._bound())

    def step(self, rows: np.ndarray) -> None:
        """Update the cells `rows`, then move the genes."""
        counts, genes = self.batch_counts(rows), self.genes
        device, weights = genes.mean.device, self.problem.weights.rows(rows)
        index = torch.from_numpy(rows).to(self.cells.shape.device)
        part = Problem(counts, weights, self._probability(rows))
        cell_cost, gene_cost = (cost.to(genes.mean) for cost in part.costs())
        posterior = self._rows(index, device)
        load = load_of_cells(counts, gene_cost * genes.mean)
        for _ in range(self.local_steps if self.cells.shape.shape[1] else 0):
            tilde = posterior.tilde()
            _, statistics = counts.cells_walk(tilde, genes.tilde, weights)
            shape, rate = self.cells.posterior(statistics, cell_cost, load, tilde, index)
            posterior = Marginals("gamma", shape, rate.expand_as(shape), posterior.fixed)
        self.cells.shape[index] = posterior.first.to(self.cells.shape)
        self.cells.rate[index] = posterior.second.to(self.cells.rate)
        self.step_number += 1
        if not genes.shape.shape[1]:
            return
        scale = self.problem.counts.shape[0] / len(rows)
        _, statistics = counts.genes_walk(posterior.tilde(), genes.tilde, weights)
        load = load_of_genes(counts, cell_cost * posterior.mean())
        target = genes.posterior(scale * statistics, gene_cost, scale * load, genes.tilde)
        share = (self.step_number + self.delay) ** -self.forgetting
        genes.shape = torch.lerp(genes.shape, target[0], share)
        genes.rate = torch.lerp(genes.rate, target[1], share)
        self._genes_moments()

    def state(self) -> dict[str, np.ndarray]:
        return super().state() | {"clock": np.array([self.step_number, self.epoch, self.batch])}

    def load_state(self, arrays: dict[str, np.ndarray]) -> None:
        super().load_state(arrays)
        self.step_number, self.epoch, self.batch = map(int, arrays["clock"])
        if self.batch:
            self._genes_moments()

    def _genes_moments(self) -> None:
        marginals = self.genes.marginals()
        self.genes.mean, self.genes.tilde = marginals.mean(), marginals.tilde()

    def _rows(self, index: torch.Tensor, device: torch.device) -> Marginals:
        fixed = self.cells.mean[index, : self.cells.n_fixed].to(device) if self.cells.n_fixed else None
        return Marginals(
            "gamma", self.cells.shape[index].to(device), self.cells.rate[index].to(device), fixed
        )

    def _probability(self, rows: np.ndarray) -> Probability:
        probability = self.problem.probability
        if probability.donors is None:
            return probability
        return probability.rows(torch.from_numpy(rows).to(probability.donors.device))

    def _bound(self) -> float:
        n, value = len(self.cells.shape), 0.0
        for start in range(0, n, BLOCK_ROWS):
            rows = np.arange(start, min(start + BLOCK_ROWS, n))
            tilde = self.cells.tilde[start : rows[-1] + 1].to(self.genes.mean.device)
            weights = self.problem.weights.rows(rows)
            value += self.batch_counts(rows).cells_walk(tilde, self.genes.tilde, weights, True)[0]
        return value


def infer_cells(problem: Problem, cells: GammaFactor, genes: Marginals, *, max_iter: int, tol: float) -> int:
    """Move `cells` to the optimum given the genes, which is unique; returns the steps taken.

    A cell is left where it is once its factors change by no more than the share `tol` of their sum: what it
    gets does not depend on the other cells.
    """
    cell_cost, gene_cost = (cost.to(cells.mean) for cost in problem.costs())
    mean, tilde = genes.mean(), genes.tilde()
    load = load_of_cells(problem.counts, gene_cost * mean)
    done = torch.zeros((len(cells.mean), 1), dtype=torch.bool, device=cells.mean.device)
    for step in range(max_iter):
        before, shape = cells.mean.clone(), cells.shape
        _, statistics = problem.counts.cells_walk(cells.tilde, tilde, problem.weights)
        cells.update(statistics, cell_cost, load)
        if step and bool(done.any()):
            cells.shape = torch.where(done, shape, cells.shape)
            cells.refresh()
        done |= (cells.mean - before).abs().sum(1, keepdim=True) <= tol * before.sum(1, keepdim=True)
        if bool(done.all()):
            return step + 1
    return max_iter
