"""Where the batches of a fit lie and how its steps are taken, decided once and told in ``run.json``."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch

from nmfbench.device import free_bytes
from nmfbench.models.autoencoder.card_steps import CardSteps
from nmfbench.models.autoencoder.epochs import HostSteps, Steps
from nmfbench.models.autoencoder.minibatch import BatchObjective
from nmfbench.rows.batches import Sampler, WindowSampler
from nmfbench.rows.card import card_rows
from nmfbench.rows.card_memory import DENSE_ABOVE, dense_on_card, place_on_card

log = logging.getLogger(__name__)

CARDS = frozenset({"cuda"})
"""Kinds of devices whose batches are dense and lie there. Tests add the processor."""

PRETENDED = 80e9
"""Bytes that are free where the processor stands in for a card."""


def steps_on(
    objective: BatchObjective, sampler: Sampler | WindowSampler, precision: str
) -> tuple[Steps, dict[str, Any]]:
    """How the steps of a fit are taken on the device of its weights.

    Parameters
    ----------
    objective : BatchObjective
    sampler : Sampler or WindowSampler
    precision : {"float32", "tf32"}
        What was asked for.

    Returns
    -------
    steps : Steps
    record : dict
        ``products``, ``rows``, ``recorded``, ``precision`` and ``reason``, as plain values.
    """
    source, device = objective.source, objective.W.device
    if device.type not in CARDS:
        used = "float64" if source.dtype == np.float64 else "float32"
        reason = "no card: sparse batches, cut out of the rows one by one"
        return HostSteps(objective), _record("sparse", "host", False, precision, used, reason)
    if not dense_on_card(source.nnz, source.n_rows, source.n_columns):
        used = precision_on(device, source.dtype, "float32")
        reason = f"fewer than {100 * DENSE_ABOVE:.2f} % of the values are nonzero: sparse products are faster"
        return HostSteps(objective), _record("sparse", "host", False, precision, used, reason)
    batch_size = min(sampler.batch_size, source.n_rows)
    by_condition = sampler.order == "by_condition"
    layout = objective.layout(batch_size, by_condition)
    placement = place_on_card(
        source.nnz,
        source.n_rows,
        source.n_columns,
        item=np.dtype(source.dtype).itemsize,
        batch_rows=batch_size,
        weights=objective.bytes_to_come() + layout.nbytes(*objective.W.shape, objective.W.element_size()),
        free=free_bytes(device) or PRETENDED,
    )
    steps = CardSteps(
        objective,
        card_rows(source, device, placement),
        batch_size,
        by_condition=by_condition,
        precision=precision,
    )
    reason = f"nonzeros of {placement.resident_mb:.0f} MiB and {placement.working_mb:.0f} MiB beside them, "
    reason += f"of {placement.free_mb:.0f} MiB free"
    log.info("batches on %s: %s (%s); step recorded: %s", device, placement.rows, reason, steps.recorded)
    used = precision_on(device, source.dtype, precision)
    found = _record("dense", placement.rows, steps.recorded, precision, used, reason)
    return steps, found | {"placement": placement.record()}


def precision_on(device: torch.device, dtype: np.dtype, precision: str) -> str:
    """What products are made in where `precision` is asked for: TF32 is NVIDIA's, from Ampere on."""
    if dtype == np.float64:
        return "float64"
    if precision == "tf32" and device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0):
        return "tf32"
    return "float32"


def _record(products, rows, recorded, asked, used, reason) -> dict[str, Any]:
    return {
        "products": products,
        "rows": rows,
        "recorded": recorded,
        "precision": {"asked": asked, "used": used},
        "reason": reason,
    }
