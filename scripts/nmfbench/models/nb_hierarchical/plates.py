"""``engine: plates``: the model in Pyro, cells and genes subsampled together in two independent plates.

The same index tensors, taken from the plates, choose counts, offsets and effects; Pyro then weights genes by
G / genes of the batch, cells by N / cells of the batch, and the counts by both. It is the reference of the
exact engine, in the same family.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoGuideList, AutoMultivariateNormal, AutoNormal
from pyro.infer.autoguide.initialization import init_to_value

from nmfbench.models.nb_hierarchical.exact import Problem, refuse_infinite, relative_change
from nmfbench.models.nb_hierarchical.family import BOUND_SD, LOG_ALPHA_BOUNDS, Family

INIT_SCALE = 0.05
SITES = {"gene": "a", "cell": "b", "log_alpha": "log_alpha"}


def block_of(counts: Any, rows: np.ndarray, columns: np.ndarray) -> torch.Tensor:
    """A dense block of counts: CSR rows first, then columns; float64."""
    return torch.from_numpy(counts[rows][:, columns].toarray().astype(np.float64))


class HierarchicalModel:
    """The model as a Pyro program.

    Parameters
    ----------
    family : Family
        Without covariates.
    counts : csr of shape (cells, genes)
    mask : csr of the same shape or None
        Ones at the entries that are left out.
    size, length : Tensor of shape (cells,), (genes,)
    batch_cells, batch_genes : int
        Of a step.
    """

    def __init__(
        self,
        family: Family,
        counts: Any,
        mask: Any,
        size: torch.Tensor,
        length: torch.Tensor,
        batch_cells: int,
        batch_genes: int,
    ) -> None:
        self.family, self.counts, self.mask = family, counts, mask
        self.size, self.length = size, length
        self.batch_cells, self.batch_genes = batch_cells, batch_genes

    def plates(self, *_: Any) -> list[pyro.plate]:
        """Both plates, with new subsamples of the present sizes."""
        n, p = self.counts.shape
        cells = pyro.plate("cells", n, subsample_size=min(self.batch_cells, n), dim=-2)
        genes = pyro.plate("genes", p, subsample_size=min(self.batch_genes, p), dim=-1)
        return [cells, genes]

    def __call__(self) -> None:
        family, priors = self.family, self.family.priors
        x = {"mu_gene": pyro.sample("mu_gene", dist.Normal(_f(priors.gene_mean), _f(priors.gene_mean_sd)))}
        x["sigma_gene"] = pyro.sample("sigma_gene", dist.HalfNormal(_f(priors.gene_sd)))
        x["mu_cell"] = _f(0.0)
        if priors.cell_mean_sd is not None:
            x["mu_cell"] = pyro.sample("mu_cell", dist.Normal(_f(0.0), _f(priors.cell_mean_sd)))
        x["sigma_cell"] = pyro.sample("sigma_cell", dist.HalfNormal(_f(priors.cell_sd)))
        if family.shared:
            log_alpha = pyro.sample("alpha", dist.HalfCauchy(_f(priors.alpha_scale))).log()
            pyro.factor("alpha_bounds", _bounds(log_alpha))
        else:
            x["mu_log_alpha"] = pyro.sample(
                "mu_log_alpha", dist.Normal(_f(0.0), _f(priors.log_alpha_mean_sd))
            )
            x["sigma_log_alpha"] = pyro.sample("sigma_log_alpha", dist.HalfNormal(_f(priors.log_alpha_sd)))
        cells, genes = self.plates()
        with genes as gi:
            a = self._effect("gene", x)
            if not family.shared:
                log_alpha = self._effect("log_alpha", x)
                pyro.factor("alpha_bounds", _bounds(log_alpha))
        with cells as ci:
            b = self._effect("cell", x)
        rows, columns = ci.numpy(), gi.numpy()
        y = block_of(self.counts, rows, columns)
        log_mu = a + self.length[gi] + b + self.size[ci, None]
        total = torch.exp(log_alpha)
        counted = dist.NegativeBinomial(total_count=total, logits=log_mu - log_alpha)
        if self.mask is not None:
            counted = counted.mask(block_of(self.mask, rows, columns) == 0)
        with cells, genes:
            pyro.sample("y", counted, obs=y)

    def _effect(self, axis: str, x: dict[str, torch.Tensor]) -> torch.Tensor:
        mu, sigma = x[f"mu_{axis}"], x[f"sigma_{axis}"]
        if self.family.forms[axis]:
            return pyro.sample(SITES[axis], dist.Normal(mu, sigma))
        return mu + sigma * pyro.sample(SITES[axis], dist.Normal(torch.zeros_like(mu), 1.0))


class PlatesEngine:
    """Stochastic gradients of subsampled cells and genes, by Pyro.

    Parameters
    ----------
    problem : Problem
    counts, mask
        As of :class:`HierarchicalModel`.
    loc, log_sd : ndarray of shape (size,)
        The start.
    batch_cells, batch_genes : int
    guide : {"normal", "list"}
        AutoNormal; or a list of a full covariance for the shared numbers and AutoNormal for the effects.
    optimizer, learning_rate
        ``adam`` (with clipped gradients) or ``adagrad_window``, which only `entries` has.
    max_iter : int
        The learning rate falls to a tenth over so many.
    """

    rows = 25

    def __init__(
        self,
        problem: Problem,
        counts: Any,
        mask: Any,
        loc: np.ndarray,
        log_sd: np.ndarray,
        *,
        batch_cells: int,
        batch_genes: int,
        guide: str,
        learning_rate: float,
        max_iter: int,
    ) -> None:
        self.problem, self.loc, self.log_sd = problem, loc, log_sd
        family = problem.family
        n, p = counts.shape
        self.model = HierarchicalModel(
            family, counts, mask, problem.size, problem.length, batch_cells, batch_genes
        )
        self.share_of_a_step = min(batch_cells, n) * min(batch_genes, p) / (n * p)
        self.step_number, self.parameter_change = 0, float("nan")
        self._store: dict[str, Any] = {"params": {}, "constraints": {}}
        self._full = guide == "list"
        decay = 0.1 ** (1 / max_iter)
        self._optimiser = pyro.optim.ClippedAdam({"lr": learning_rate, "lrd": decay, "clip_norm": 1e3})
        with self._scope(0):
            self.guide = self._guide(family)
            self._svi = SVI(self.model, self.guide, self._optimiser, Trace_ELBO())
            self.guide()
        self._put(family)

    def advance(self, steps: int) -> None:
        """Make some steps."""
        before = np.concatenate([self.loc, self.log_sd])
        for _ in range(steps):
            self.step_number += 1
            with self._scope(self.step_number):
                self._svi.step()
        self._take(self.problem.family)
        self.parameter_change = relative_change(np.concatenate([self.loc, self.log_sd]), before)

    def loss(self, key: int) -> float:
        """Minus one draw's estimate of the ELBO from one subsample."""
        with self._scope(key, 7), torch.no_grad():
            return float(self._svi.evaluate_loss())

    def refuse_infinite(self, objective: float) -> None:
        """Stop a fit that has lost itself."""
        refuse_infinite(objective, self.step_number)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        arrays = {"loc": self.loc, "log_sd": self.log_sd, "clock": np.array(self.step_number)}
        for name, value in self._store["params"].items():
            arrays[f"param.{name}"] = value.detach().numpy()
        with self._scope(0):
            for name, state in self._optimiser.get_state().items():
                arrays[f"rate.{name}"] = np.array(state["param_groups"][0]["lr"])
                for key, value in state["state"].get(0, {}).items():
                    arrays[f"moment.{key}.{name}"] = (
                        value.numpy() if torch.is_tensor(value) else np.array(value)
                    )
        return arrays

    def load_state(self, arrays: dict[str, np.ndarray], forms: dict[str, bool]) -> None:
        """Go on from a checkpoint."""
        self.problem.family = self.model.family = replace(self.problem.family, forms=dict(forms))
        self.step_number = int(arrays["clock"])
        self.loc, self.log_sd = arrays["loc"].copy(), arrays["log_sd"].copy()
        states = {}
        with self._scope(0):  # it knows the parameters' names
            for name, value in self._store["params"].items():
                with torch.no_grad():
                    value.copy_(torch.from_numpy(arrays[f"param.{name}"]))
                kept = {
                    key.split(".")[1]: int(part) if part.dtype.kind == "i" else torch.from_numpy(part)
                    for key, part in arrays.items()
                    if key.startswith("moment.") and key.split(".", 2)[2] == name
                }
                fresh = self._optimiser.pt_optim_constructor(
                    [value], **self._optimiser.pt_optim_args
                ).state_dict()
                for group in fresh["param_groups"]:
                    group["lr"] = float(arrays.get(f"rate.{name}", group["lr"]))
                states[name] = {**fresh, "state": {0: kept} if kept else {}}
            self._optimiser.set_state(states)

    # ------------------------------------------------------------------------------------------------

    @contextmanager
    def _scope(self, *key: int):
        """Parameters of this fit alone, draws of this step alone, float64, no warning of an infinite loss."""
        seed = np.random.SeedSequence([self.problem.seed, 8, *key]).generate_state(1, np.uint64)[0] >> 1
        kind = torch.get_default_dtype()
        with (
            pyro.get_param_store().scope(self._store),
            pyro.validation_enabled(False),
            torch.random.fork_rng([]),
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("ignore", message="Encountered NaN", category=UserWarning)
            torch.manual_seed(int(seed))
            torch.set_default_dtype(torch.float64)
            try:
                yield
            finally:
                torch.set_default_dtype(kind)

    def _guide(self, family: Family) -> Any:
        start = init_to_value(values=self._start(family))
        if not self._full:
            return AutoNormal(
                self.model, init_loc_fn=start, init_scale=INIT_SCALE, create_plates=self.model.plates
            )
        guide = AutoGuideList(self.model, create_plates=self.model.plates)
        names = [name.removeprefix("log_") for name in family.globals]
        locals_ = [site for axis, site in SITES.items() if axis in family.axes]
        guide.append(
            AutoMultivariateNormal(
                poutine.block(self.model, expose=names), init_loc_fn=start, init_scale=INIT_SCALE
            )
        )
        guide.append(
            AutoNormal(poutine.block(self.model, expose=locals_), init_loc_fn=start, init_scale=INIT_SCALE)
        )
        return guide

    def _start(self, family: Family) -> dict[str, torch.Tensor]:
        """Starts of the shared numbers; those of the effects are put in place afterwards."""
        loc = torch.from_numpy(self.loc)
        values = {}
        for k, name in enumerate(family.globals):
            values[name.removeprefix("log_")] = torch.exp(loc[k]) if name.startswith("log_") else loc[k]
        return values

    def _places(self, family: Family):
        """Parameters of the guide and where they belong in the vector: (mean, scale, place)."""
        sites = [(SITES[axis], place) for axis, place in family.places.items()]
        if not self._full:
            sites += [(name, slice(k, k + 1)) for k, name in enumerate(self._global_sites(family))]
        for site, place in sites:
            yield self._parameter(f"locs.{site}"), self._parameter(f"scales.{site}"), place

    def _parameter(self, key: str) -> torch.Tensor:
        return next(v for k, v in self._store["params"].items() if f".{k}".endswith(f".{key}"))

    def _put(self, family: Family) -> None:
        """Start from the vector's spreads; effects' means are there by the guide's own start."""
        for mean, scale, place in self._places(family):
            with torch.no_grad():
                mean.copy_(torch.from_numpy(self.loc[place]).reshape(mean.shape))
                scale.copy_(_unconstrained(torch.from_numpy(np.exp(self.log_sd[place]))).reshape(scale.shape))

    def _take(self, family: Family) -> None:
        """Read the vector from the guide."""
        for mean, scale, place in self._places(family):
            self.loc[place] = mean.detach().numpy().ravel()
            self.log_sd[place] = np.log(torch.nn.functional.softplus(scale.detach()).numpy().ravel())
        if self._full:
            part = self.guide[0]
            loc = part.loc.detach().numpy()
            cov = (part.scale[:, None] * part.scale_tril).detach().numpy()
            sd = np.sqrt((cov**2).sum(1))
            order = [name for name in part.prototype_trace.nodes if name in self._global_sites(family)]
            for k, name in enumerate(family.globals):
                place = order.index(name.removeprefix("log_"))
                self.loc[k], self.log_sd[k] = loc[place], np.log(sd[place])

    @staticmethod
    def _global_sites(family: Family) -> list[str]:
        return [name.removeprefix("log_") for name in family.globals]


def _f(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _bounds(log_alpha: torch.Tensor) -> torch.Tensor:
    low, high = LOG_ALPHA_BOUNDS
    beyond = torch.relu(log_alpha - high) + torch.relu(low - log_alpha)
    return -0.5 * beyond**2 / BOUND_SD**2


def _unconstrained(scale: torch.Tensor) -> torch.Tensor:
    return scale + torch.log(-torch.expm1(-scale))
