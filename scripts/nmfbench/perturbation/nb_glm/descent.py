"""Training of the general model by AdamW, with a cosine schedule, as the loop of all fits drives it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from nmfbench.fitting.engine import Engine, Row
from nmfbench.perturbation.nb_glm.losses import LOSSES
from nmfbench.perturbation.nb_glm.network import LowRankNB


@dataclass(frozen=True)
class Batch:
    """Rows of a step; the attributes are tensors on the device.

    Attributes
    ----------
    y : Tensor of shape (rows, genes)
    offset, phase, target : Tensor of shape (rows,)
    multiple : Tensor of shape (rows,)
        Of theta.
    """

    y: torch.Tensor
    offset: torch.Tensor
    multiple: torch.Tensor
    target: torch.Tensor
    phase: torch.Tensor


class Batches(Protocol):
    """Where the rows of an epoch come from."""

    def epoch(self, rng: np.random.Generator) -> Iterator[Batch]:
        """All rows once, in a new order."""


@dataclass(frozen=True)
class Targets:
    """The training targets of a fold, on the device.

    Attributes
    ----------
    vectors : Tensor of shape (targets, width)
    missing : Tensor of shape (targets,)
        Those without a vector.
    own : list of list of int
        Genes that each target is.
    """

    vectors: torch.Tensor
    missing: torch.Tensor
    own: list[list[int]]


def learning_rate(epoch: int, settings: dict[str, Any]) -> float:
    """Rate of an epoch: a linear warm-up over a share of the epochs, then a cosine to the least."""
    top, epochs = settings["learning_rate"], settings["max_iter"]
    if settings["learning_rate_schedule"] != "cosine":
        return top
    warm = round(settings["warmup_pct"] * epochs)
    if epoch < warm:
        return top * (epoch + 1) / warm
    progress = (epoch - warm) / max(epochs - warm, 1)
    least = settings["min_learning_rate"]
    return least + 0.5 * (top - least) * (1 + math.cos(math.pi * progress))


def penalties(model: LowRankNB, raw: torch.Tensor, settings: dict[str, Any]) -> torch.Tensor:
    """Penalties of the objective; means over the entries, as the published code has them."""
    K, total = model.K, raw.new_zeros(())
    for key, term in (("l1", lambda: K.abs().mean()), ("l2", lambda: (K**2).mean()),
                      ("raw_l1", lambda: raw.abs().mean()), ("raw_l2", lambda: (raw**2).mean())):  # fmt: skip
        if settings[key]:
            total = total + settings[key] * term()
    return total


class Descent(Engine):
    """Epochs of AdamW on a model, which is trained in place; where targets validate, the best one is kept.

    Parameters
    ----------
    model : LowRankNB
    targets : Targets
    theta : Tensor of shape (genes,)
    batches : Batches
    settings : dict
        ``loss``, ``max_iter``, ``learning_rate``, ``learning_rate_schedule``, ``warmup_pct``,
        ``min_learning_rate``, ``weight_decay``, ``clip``, ``l1``, ``l2``, ``raw_l1``, ``raw_l2``,
        ``patience``.
    seed : list of int
        From it and the number of the epoch follow the order of the rows and dropout, so that a resumed
        training goes on as an unbroken one.
    validate : callable, optional
        A loss of the held-out targets; the parameters of its least value are kept.
    """

    remedy = "lower learning_rate, or clip"

    def __init__(
        self,
        model: LowRankNB,
        targets: Targets,
        theta: torch.Tensor,
        batches: Batches,
        settings: dict[str, Any],
        *,
        seed: list[int],
        validate: Callable[[LowRankNB], float] | None = None,
    ) -> None:
        self.model, self.targets, self.theta, self.batches = model, targets, theta, batches
        self.settings, self.seed, self.validate = settings, seed, validate
        self.limit, self.clock = settings["max_iter"], 0
        self.loss = LOSSES[settings["loss"]]
        self.optimiser = _optimiser(model, settings)
        self.best_value, self.waited = math.inf, 0
        self.best: dict[str, torch.Tensor] | None = None

    def advance(self, pause: Callable[[], bool]) -> Row:
        """One epoch; ``epoch`` of its row counts from 0."""
        stream = np.random.SeedSequence([*self.seed, self.clock])
        torch.manual_seed(int(stream.generate_state(1)[0]))
        rng = np.random.default_rng(stream.spawn(1)[0])
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.clock, self.settings)
        self.model.train()
        summed, rows = 0.0, 0
        for batch in self.batches.epoch(rng):
            summed += self._step(batch) * len(batch.y)
            rows += len(batch.y)
        row = {"epoch": self.clock, "objective": summed / rows}
        if self.validate is not None:
            row["validation"] = self.validate(self.model)
            better = row["validation"] < self.best_value
            self.waited = 0 if better else self.waited + 1
            self.best_value = row["validation"] if better else self.best_value
        self.clock += 1
        return row

    def has_converged(self) -> bool:
        return self.validate is not None and self.waited >= self.settings["patience"]

    def score(self, row: Row) -> float | None:
        return row.get("validation")

    def keep_best(self) -> None:
        self.best = {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def end(self) -> None:
        if self.best is not None:
            self.model.load_state_dict(self.best)
        self.model.eval()

    def describe(self) -> dict[str, Any]:
        return {name: value.detach().cpu().numpy() for name, value in self.model.named_parameters()}

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays = {f"model/{name}": value.cpu().numpy() for name, value in self.model.state_dict().items()}
        for number, values in self.optimiser.state_dict()["state"].items():
            arrays |= {f"adam/{number}/{key}": value.cpu().numpy() for key, value in values.items()}
        if self.best is not None:
            arrays |= {f"best/{name}": value.cpu().numpy() for name, value in self.best.items()}
        return arrays, {"clock": self.clock, "best_value": self.best_value, "waited": self.waited}

    def load_state(self, arrays: dict[str, np.ndarray], record: dict[str, Any]) -> None:
        parts: dict[str, dict[str, torch.Tensor]] = {"model": {}, "best": {}}
        adam: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in arrays.items():
            kind, _, rest = name.partition("/")
            tensor = torch.from_numpy(value.copy())
            if kind == "adam":
                number, _, key = rest.partition("/")
                adam.setdefault(int(number), {})[key] = tensor
            else:
                parts[kind][rest] = tensor
        self.model.load_state_dict(parts["model"])
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": adam})
        self.best = parts["best"] or None
        self.clock, self.best_value, self.waited = record["clock"], record["best_value"], record["waited"]

    def _step(self, batch: Batch) -> float:
        """A step along the gradient of a batch; its objective before."""
        model, targets = self.model, self.targets
        raw = model.raw(targets.vectors[batch.target], targets.missing[batch.target])
        pairs = own_pairs(targets.own, batch.target) if model.on_target is not None else None
        change = model.change(raw, pairs, batch.phase)
        log_mu = model.log_control + change + batch.offset[:, None]
        objective = self.loss(log_mu, batch.y, self.theta * batch.multiple[:, None]).mean()
        objective = objective + penalties(model, raw, self.settings)
        self.optimiser.zero_grad()
        objective.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), self.settings["clip"])
        self.optimiser.step()
        return float(objective.detach())


def own_pairs(own: list[list[int]], targets: torch.Tensor) -> torch.Tensor:
    """Rows and genes of the on-target term of a batch, shape (2, pairs)."""
    pairs = [(row, gene) for row, target in enumerate(targets.tolist()) for gene in own[target]]
    return torch.tensor(pairs, dtype=torch.long, device=targets.device).reshape(-1, 2).T


def _optimiser(model: LowRankNB, settings: dict[str, Any]) -> torch.optim.AdamW:
    """The published optimiser decays everything; ours only weights that multiply something."""

    def decays(name: str) -> bool:
        return settings["decay_all"] or name == "K" or name.endswith("weight")

    decayed = [parameter for name, parameter in model.named_parameters() if decays(name)]
    others = [parameter for name, parameter in model.named_parameters() if not decays(name)]
    groups = [{"params": decayed, "weight_decay": settings["weight_decay"]}]
    groups += [{"params": others, "weight_decay": 0.0}] if others else []
    return torch.optim.AdamW(groups, lr=settings["learning_rate"])
