"""``engine: plates``: Pyro's stochastic gradients of subsampled cells and genes.

It is the reference of the exact engine, in the same family.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoGuideList, AutoMultivariateNormal, AutoNormal
from pyro.infer.autoguide.initialization import init_to_value

from nmfbench.models.nb_hierarchical.exact import Problem, relative_change
from nmfbench.models.nb_hierarchical.family import Family
from nmfbench.models.nb_hierarchical.plates_model import SITES, HierarchicalModel

INIT_SCALE = 0.05


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


def _unconstrained(scale: torch.Tensor) -> torch.Tensor:
    return scale + torch.log(-torch.expm1(-scale))
