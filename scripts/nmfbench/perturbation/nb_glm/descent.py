"""Training of the general model by AdamW, with a cosine schedule, a checkpoint and a bit-equal resume."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from nmfbench.fitting.checkpoint import Checkpoint
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


@dataclass
class Descent:
    """State of a training.

    Attributes
    ----------
    epoch : int
        Epochs done.
    history : list of dict
        By epoch: epoch, objective, and validation where there is one.
    best_value, waited : float, int
        Best validation so far, and epochs since.
    best : dict
        Parameters at the best validation.
    """

    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best_value: float = math.inf
    waited: int = 0
    best: dict[str, torch.Tensor] | None = None


def learning_rate(epoch: int, settings: dict[str, Any]) -> float:
    """Rate of an epoch: a linear warm-up over a share of the epochs, then a cosine to the least."""
    top, schedule, epochs = (
        settings["learning_rate"],
        settings["learning_rate_schedule"],
        settings["max_iter"],
    )
    if schedule != "cosine":
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


def descend(
    model: LowRankNB,
    P: torch.Tensor,
    missing: torch.Tensor,
    own: list[list[int]],
    theta: torch.Tensor,
    batches: Batches,
    settings: dict[str, Any],
    *,
    seed: list[int],
    checkpoint: Checkpoint | None = None,
    stop: Callable[[], bool] = lambda: False,
    validate: Callable[[LowRankNB], float] | None = None,
) -> Descent:
    """Train a model in place.

    Parameters
    ----------
    model : LowRankNB
    P, missing : Tensor
        Vectors of the training targets and a mask of those without.
    own : list of list of int
        Genes that each training target is.
    theta : Tensor of shape (genes,)
    batches : Batches
    settings : dict
        ``loss``, ``max_iter``, ``learning_rate``, ``learning_rate_schedule``, ``warmup_pct``,
        ``min_learning_rate``, ``weight_decay``, ``clip``, ``l1``, ``l2``, ``raw_l1``, ``raw_l2``,
        ``patience``.
    seed : list of int
        From it and the number of the epoch follow the order of the rows and dropout, so that a resumed
        training goes on as an unbroken one.
    checkpoint : Checkpoint, optional
    stop : callable
        Asked after each epoch; the state is then saved and :class:`~nmfbench.job.Interrupted` raised.
    validate : callable, optional
        A loss of the held-out targets; the parameters of its least value are kept.

    Returns
    -------
    Descent
    """
    from nmfbench.job import Interrupted

    loss = LOSSES[settings["loss"]]
    decayed = [parameter for name, parameter in model.named_parameters() if _decays(name, settings)]
    others = [parameter for name, parameter in model.named_parameters() if not _decays(name, settings)]
    groups = [{"params": decayed, "weight_decay": settings["weight_decay"]}]
    groups += [{"params": others, "weight_decay": 0.0}] if others else []
    optimiser = torch.optim.AdamW(groups, lr=settings["learning_rate"])
    state = Descent()
    stored = checkpoint.load() if checkpoint is not None else None
    if stored is not None:
        _restore(model, optimiser, state, *stored)
    while state.epoch < settings["max_iter"]:
        stream = np.random.SeedSequence([*seed, state.epoch])
        torch.manual_seed(int(stream.generate_state(1)[0]))
        rng = np.random.default_rng(stream.spawn(1)[0])
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(state.epoch, settings)
        model.train()
        summed, rows = 0.0, 0
        for batch in batches.epoch(rng):
            raw = model.raw(P[batch.target], missing[batch.target])
            pairs = own_pairs(own, batch.target) if model.on_target is not None else None
            change = model.change(raw, pairs, batch.phase)
            log_mu = model.log_control + change + batch.offset[:, None]
            objective = loss(log_mu, batch.y, theta * batch.multiple[:, None]).mean()
            objective = objective + penalties(model, raw, settings)
            optimiser.zero_grad()
            objective.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings["clip"])
            optimiser.step()
            summed += float(objective.detach()) * len(batch.y)
            rows += len(batch.y)
        row = {"epoch": state.epoch, "objective": summed / rows}
        if validate is not None:
            row["validation"] = validate(model)
            state.waited = 0 if row["validation"] < state.best_value else state.waited + 1
            if state.waited == 0:
                state.best_value = row["validation"]
                state.best = {name: value.detach().clone() for name, value in model.state_dict().items()}
        state.history.append(row)
        state.epoch += 1
        if stop():
            if checkpoint is not None:
                checkpoint.save(*_stored(model, optimiser, state))
            raise Interrupted(f"after {state.epoch} of {settings['max_iter']} epochs")
        if checkpoint is not None and checkpoint.is_due(10.0):
            checkpoint.save(*_stored(model, optimiser, state))
        if validate is not None and state.waited >= settings["patience"]:
            break
    if state.best is not None:
        model.load_state_dict(state.best)
    model.eval()
    return state


def own_pairs(own: list[list[int]], targets: torch.Tensor) -> torch.Tensor:
    """Rows and genes of the on-target term of a batch, shape (2, pairs)."""
    pairs = [(row, gene) for row, target in enumerate(targets.tolist()) for gene in own[target]]
    return torch.tensor(pairs, dtype=torch.long, device=targets.device).reshape(-1, 2).T


def _decays(name: str, settings: dict[str, Any]) -> bool:
    """The published optimiser decays everything; ours only weights that multiply something."""
    return settings["decay_all"] or name == "K" or name.endswith("weight")


def _stored(model: LowRankNB, optimiser: torch.optim.Optimizer, state: Descent):
    arrays = {f"model/{name}": value.cpu().numpy() for name, value in model.state_dict().items()}
    for number, values in optimiser.state_dict()["state"].items():
        arrays |= {f"adam/{number}/{key}": value.cpu().numpy() for key, value in values.items()}
    if state.best is not None:
        arrays |= {f"best/{name}": value.cpu().numpy() for name, value in state.best.items()}
    record = {name: getattr(state, name) for name in ("epoch", "history", "best_value", "waited")}
    return arrays, record


def _restore(model, optimiser, state: Descent, arrays, record) -> None:
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
    model.load_state_dict(parts["model"])
    optimiser.load_state_dict({**optimiser.state_dict(), "state": adam})
    state.epoch, state.history = int(record["epoch"]), list(record["history"])
    state.best_value, state.waited = float(record["best_value"]), int(record["waited"])
    state.best = parts["best"] or None
