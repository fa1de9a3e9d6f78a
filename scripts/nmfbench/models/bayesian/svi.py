"""Stochastic variational inference with Pyro: a log-normal posterior, gradients from one draw a step.

Pyro has the model, the guide, the ELBO and the optimiser; the likelihood is one `factor`, exact on the
nonzeros. Its parameter store is entered for each group of steps and left as it was found, and so is torch's
random state: step t draws from a seed of its own, so that a resumed fit equals an unbroken one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal, init_to_value
from torch.distributions import constraints

from nmfbench.models.bayesian.cavi import Problem
from nmfbench.models.bayesian.posterior import Marginals, Posterior
from nmfbench.models.bayesian.prior import GammaPrior, Sums
from nmfbench.models.bayesian.terms import constant, log_likelihood
from nmfbench.rows.batches import Sampler

STEPS_OF_A_ROW = 10
"""Steps between two rows of the history; the priors are updated then."""

START_SCALE = 0.1

LARGEST_SCALE = 4.0
"""Of the scale of a logarithm, whose best is at most 1 / sqrt(shape of the prior).

Without a bound, one noisy entry of scale 30 had a mean of infinity, which the priors' rates then followed.
"""

SCALES = constraints.interval(0.0, LARGEST_SCALE)


class StochasticGradient:
    """Pyro's SVI on the sparse-exact likelihood.

    Parameters
    ----------
    problem : Problem
    starts, fixed, priors : pairs, of the cells and of the genes
        Starts of the medians (n, k), constant patterns (n, f) or None, priors.
    seed : int
    sampler : Sampler or None
        None: all cells in each step.
    take : callable
        From row numbers to their counts, where the genes' factor lies.
    max_iter : int
    learning_rate : float
    clip_norm : float or None
        Bound of each entry of the gradient.
    exposure : Tensor of shape (cells, 1) or None
        Sizes of the cells, as of :class:`nmfbench.models.bayesian.factor.GammaFactor`.
    written_out : bool
        A guide with parameters written out, those of the cells where `starts` has them; else AutoNormal.
    """

    is_exact = may_converge = False

    def __init__(
        self,
        problem: Problem,
        starts: Any,
        fixed: Any,
        priors: tuple[GammaPrior, GammaPrior],
        seed: int,
        sampler: Sampler | None,
        take: Callable[[np.ndarray], Any],
        *,
        max_iter: int,
        learning_rate: float,
        clip_norm: float | None,
        written_out: bool,
        exposure: torch.Tensor | None = None,
    ) -> None:
        self.problem, self.starts, self.fixed, self.priors = problem, starts, fixed, priors
        self.exposure = exposure
        self.seed, self.sampler, self.take, self.max_iter = seed, sampler, take, max_iter
        self.n_cells = problem.counts.shape[0]
        self.device = starts[1].device
        self.step_number = 0
        self._constant = 0.0
        self._store: dict[str, Any] = {"params": {}, "constraints": {}}
        self._batches: tuple[int, list] = (-1, [])
        self.written_out = written_out
        self.guide = self._guide if written_out else self._automatic()
        settings = {"lr": learning_rate} | ({} if clip_norm is None else {"clip_norm": clip_norm})
        self.optimiser = (pyro.optim.Adam if clip_norm is None else pyro.optim.ClippedAdam)(settings)
        self._svi = SVI(self._model, self.guide, self.optimiser, Trace_ELBO())
        with pyro.get_param_store().scope(self._store), pyro.validation_enabled(False), self._random(0):
            self.guide(np.arange(self.n_cells) if written_out else None)

    # The model and its guide ------------------------------------------------------------------------

    def _model(self, rows: np.ndarray | None) -> None:
        """`rows` are the batch; None makes the sites of all cells, without the counts."""
        A = None
        if self.starts[1].shape[1]:
            A = pyro.sample("A", self._prior(1).expand(self.starts[1].shape).to_event(2))
        with self._plate(rows) as index:
            shape = (len(index), self.starts[0].shape[1])
            P = pyro.sample("P", self._prior(0, index).expand(shape).to_event(1))
        if rows is None:
            return
        P, A = P.to(self.device), self._joined(1, A, None)
        P = self._joined(0, P, index)
        problem = self.problem
        weights, probability = problem.weights, problem.probability
        if len(rows) < self.n_cells:
            place = "cpu" if probability.donors is None else probability.donors.device
            weights, probability = weights.rows(rows), probability.rows(torch.from_numpy(rows).to(place))
        counts = problem.counts if len(rows) == self.n_cells else self.take(rows)
        value = log_likelihood(P, A, counts, weights, probability)
        # Outside the plate, where it would count once for each cell of the batch.
        scaled = value * (self.n_cells / len(rows)) + self._constant
        self._likelihood = float(scaled.detach())
        pyro.factor("counts", scaled)

    def _guide(self, rows: np.ndarray) -> None:
        if self.starts[1].shape[1]:
            start = self.starts[1]
            loc = pyro.param("loc_A", lambda: start.log())
            scale = pyro.param("scale_A", lambda: torch.full_like(start, START_SCALE), constraint=SCALES)
            pyro.sample("A", dist.LogNormal(loc, scale).to_event(2))
        start = self.starts[0]
        with self._plate(rows):
            loc = pyro.param("loc_P", lambda: start.log(), event_dim=1)
            scale = pyro.param(
                "scale_P",
                lambda: torch.full_like(start, START_SCALE),
                constraint=SCALES,
                event_dim=1,
            )
            pyro.sample("P", dist.LogNormal(loc.to(self.device), scale.to(self.device)).to_event(1))

    def _automatic(self) -> AutoNormal:
        values = {"P": self.starts[0]} | ({"A": self.starts[1]} if self.starts[1].shape[1] else {})
        return _BoundedAutoNormal(
            self._model,
            init_loc_fn=init_to_value(values=values),
            init_scale=START_SCALE,
            create_plates=self._plate,
        )

    def _plate(self, rows: np.ndarray | None) -> pyro.plate:
        place = self.starts[0].device
        index = torch.arange(self.n_cells) if rows is None else torch.from_numpy(rows)
        return pyro.plate("cells", self.n_cells, subsample=index.to(place), dim=-1)

    def _prior(self, side: int, index: torch.Tensor | None = None) -> dist.Distribution:
        prior, like = self.priors[side], self.starts[1]
        rate = prior.rate.to(like)
        if index is not None and self.exposure is not None:
            rate = rate / self.exposure[index].to(like)
        return dist.Gamma(prior.shape.to(like), rate)

    def _joined(self, side: int, learnt: torch.Tensor | None, index: torch.Tensor | None) -> torch.Tensor:
        fixed = self.fixed[side]
        if fixed is None:
            return learnt
        fixed = (fixed if index is None else fixed[index]).to(self.device)
        return fixed if learnt is None else torch.cat([fixed, learnt], dim=1)

    # What the loop asks for -------------------------------------------------------------------------

    @property
    def clock(self) -> tuple[float, int]:
        """Passes over the cells and steps so far."""
        return self.epochs_of(self.step_number), self.step_number

    def epochs_of(self, steps: int) -> float:
        """Passes over the cells that some steps make."""
        return steps if self.sampler is None else steps / len(self._epoch(0))

    def advance(self, pause: Any = None) -> dict[str, float]:
        """The steps of one row; returns minus the ELBO of a cell, averaged over them, in two parts.

        They are not left half done: `pause` is not asked.
        """
        loss, likelihood = [], []
        self._constant = constant(self.problem.counts, self.problem.weights, self.problem.probability)
        end = min(self.step_number + STEPS_OF_A_ROW, self.max_iter)
        with pyro.get_param_store().scope(self._store), pyro.validation_enabled(False), _quiet():
            while self.step_number < end:
                with self._random(self.step_number + 1):
                    loss.append(self._svi.step(self._rows(self.step_number)))
                likelihood.append(self._likelihood)
                self.step_number += 1
        self._update_hyperparameters()
        value = np.mean(likelihood)
        return {
            "likelihood": -value / self.n_cells,
            "divergence": (np.mean(loss) + value) / self.n_cells,
        }

    def posterior(self) -> Posterior:
        """The present posterior."""
        return Posterior.of(self._marginals(0), self._marginals(1), self.priors, self.problem.probability)

    def state(self) -> dict[str, np.ndarray]:
        """What a checkpoint keeps."""
        arrays = {"clock": np.array(self.step_number), "p": self.problem.probability.p.cpu().numpy()}
        for name, prior in zip(("cells", "genes"), self.priors, strict=True):
            arrays[f"{name}.prior"] = torch.stack([prior.shape, prior.rate]).numpy()
        for name, value in self._store["params"].items():
            arrays[f"param.{name}"] = value.detach().cpu().numpy()
        with pyro.get_param_store().scope(self._store):  # it knows the parameters' names
            optimisers = self.optimiser.get_state()
        for name, state in optimisers.items():
            for key, value in state["state"].get(0, {}).items():
                arrays[f"moment.{key}.{name}"] = value.cpu().numpy() if torch.is_tensor(value) else value
        return arrays

    def load_state(self, arrays: dict[str, np.ndarray]) -> None:
        """Go on from a checkpoint."""
        self.step_number = int(arrays["clock"])
        probability = self.problem.probability
        probability.p = torch.from_numpy(arrays["p"]).to(probability.p)
        for name, prior in zip(("cells", "genes"), self.priors, strict=True):
            prior.shape, prior.rate = torch.from_numpy(arrays[f"{name}.prior"])
        states = {}
        for name, value in self._store["params"].items():
            with torch.no_grad():
                value.copy_(torch.from_numpy(arrays[f"param.{name}"]))
            kept = {
                key.split(".")[1]: part
                for key, part in arrays.items()
                if key.endswith(f".{name}") and key.startswith("moment.")
            }
            fresh = self.optimiser.pt_optim_constructor([value], **self.optimiser.pt_optim_args)
            kept = {
                key: int(part) if part.dtype.kind == "i" else torch.from_numpy(part)
                for key, part in kept.items()
            }
            states[name] = {**fresh.state_dict(), "state": {0: kept} if kept else {}}
        self.optimiser.set_state(states)

    # ------------------------------------------------------------------------------------------------

    def _rows(self, step: int) -> np.ndarray:
        if self.sampler is None:
            return np.arange(self.n_cells)
        per_epoch = len(self._epoch(0)) if self._batches[0] < 0 else len(self._batches[1])
        return self._epoch(step // per_epoch)[step % per_epoch].rows

    def _epoch(self, number: int) -> list:
        if self._batches[0] != number:
            self._batches = number, self.sampler.epoch(number)
        return self._batches[1]

    def _random(self, step: int):
        return _Seeded([self.seed, step], self.device)

    def _marginals(self, side: int) -> Marginals:
        name, start = "PA"[side], self.starts[side]
        if not start.shape[1]:
            return Marginals("lognormal", start, start, self.fixed[side])
        params = self._store["params"]
        keys = [f"loc_{name}", f"scale_{name}"] if self.written_out else [f"locs.{name}", f"scales.{name}"]
        loc, scale = (next(v for k, v in params.items() if k.endswith(key)).detach() for key in keys)
        to_scale = torch.distributions.transform_to(SCALES)
        return Marginals("lognormal", loc, to_scale(scale), self.fixed[side])

    def _update_hyperparameters(self) -> None:
        posterior = self.posterior()
        for prior, side in zip(self.priors, (posterior.cells, posterior.genes), strict=True):
            if prior.learn_shape == prior.learn_rate == "fixed":
                continue
            learnt = Marginals(side.family, side.first, side.second)
            if side is posterior.cells and self.exposure is not None:
                learnt = learnt.per_row(self.exposure[:, 0])
            sums = (
                part.double().sum(0) if part.device.type != "mps" else part.sum(0).double()
                for part in (learnt.mean().cpu(), learnt.first.cpu())
            )
            prior.update(Sums(len(side.first), *sums, 0.0))
        if self.problem.learn_p:
            self.problem.probability.update(
                self.problem.counts, posterior.cells.mean(), posterior.genes.mean()
            )


class _BoundedAutoNormal(AutoNormal):
    scale_constraint = SCALES


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Pyro's warning of a loss that is not a number: the loop raises an error for it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Encountered NaN", category=UserWarning)
        yield


class _Seeded:
    """torch's random state, set for a while and then put back."""

    def __init__(self, seed: list[int], device: torch.device) -> None:
        self.seed = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1)
        self._fork = torch.random.fork_rng(
            [device] if device.type == "cuda" else [],
            device_type="cuda" if device.type == "cpu" else device.type,
        )

    def __enter__(self) -> None:
        self._fork.__enter__()
        torch.manual_seed(self.seed)

    def __exit__(self, *error: Any) -> None:
        self._fork.__exit__(*error)
