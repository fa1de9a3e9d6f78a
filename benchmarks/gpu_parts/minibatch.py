"""Minibatch steps of the autoencoders beside the dense peer's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch

from gpu_parts.cells import Cells, cells_of
from gpu_parts.peer import DensePeer
from gpu_parts.registry import Bench, Line, part
from nmfbench.models import get_model
from nmfbench.models.autoencoder import on_card
from nmfbench.models.labels import FitData, encode_conditions, encode_strata
from nmfbench.rows.memory import InMemoryRows

K, BATCH = 80, 512


@part("minibatch")
def minibatch(bench: Bench) -> Iterator[Line]:
    """`ae_nmf` at 20,000 and 60,000 genes, the conditional models at 20,000, by epochs of all their cells."""
    for p, n, draws, least, most in ((60_000, 20_000, 2_600, 2.0, 1.0), (20_000, 40_000, 1_100, 3.0, 0.5)):
        cells = cells_of(bench, n, p, draws)
        (ours, recorded), theirs = step_ms(bench, "ae_nmf", cells), 1e3 * peer_seconds(bench, cells)
        size = f"{cells.values.shape[1]:,} genes, {cells.values.nnz / cells.values.shape[0]:,.0f} nonzeros"
        beside = f"dense peer {theirs:.3g} ms; {recorded}"
        yield Line(f"minibatch step, {size}", ours, "ms", most, beside=beside)
        yield Line("the same, times the dense peer's speed", theirs / ours, "x", least, at_most=False)
    cells = cells_of(bench, n, p, draws)
    with in_windows():
        ours, recorded = step_ms(bench, "ae_nmf", cells)
    yield Line(
        "minibatch step, the same, cells in windows",
        ours,
        "ms",
        beside=f"copied while steps are taken; {recorded}",
    )
    ours, recorded = step_ms(bench, "cae_nmf2", cells, cells.donors)
    yield Line("cae_nmf2 step, 20,000 genes, 16 donors", ours, "ms", 1.5, beside=recorded)
    settings = {"batches": "round_robin", "row_norm": True}
    ours, recorded = step_ms(bench, "cae_nmf2", cells, cells.donors, strata=cells.types, **settings)
    beside = f"batches of all donors, round_robin; {recorded}"
    yield Line("the same as in training: published", ours, "ms", beside=beside)
    ours, recorded = step_ms(bench, "cae_nmf1", cells, cells.donors)
    yield Line("cae_nmf1 step, the same cells", ours, "ms", beside=f"the warm-up's; {recorded}")
    half = np.arange(len(cells.donors)) % 2
    for what, conditions in (("donors", cells.donors), ("donors and halves", np.c_[cells.donors, half])):
        ours, recorded = step_ms(bench, "cae_nmf1", cells, conditions, strata=cells.types, warmup_epochs=0)
        yield Line(f"the same with both penalties, {what}", ours, "ms", beside=recorded)


@contextmanager
def in_windows() -> Iterator[None]:
    """Have the cells of a fit lie in memory, as where a card has no room for all of them."""
    plain = on_card.place_on_card

    def place(*sizes, **more):
        return replace(plain(*sizes, **more), rows="windows", window=2**28)

    on_card.place_on_card = place
    try:
        yield
    finally:
        on_card.place_on_card = plain


def step_ms(
    bench: Bench, kind: str, cells: Cells, conditions=None, strata=None, **settings
) -> tuple[float, str]:
    """Milliseconds of a step, of epochs without their evaluation, and whether it is recorded."""
    k, batch = (4, 64) if bench.small else (K, BATCH)
    given = {"solver": "minibatch", "init": "random", "batch_size": batch, "random_state": 0}
    model = get_model(kind)(k, device=str(bench.device), **given, **settings)
    model.seed_ = 0
    n = cells.values.shape[0]
    data = FitData.of(InMemoryRows(cells.values), encode_conditions(conditions, n), encode_strata(strata, n))
    engine = model.epochs_of(data, bench.device)
    steps = len(engine.sampler.epoch(0))

    def epoch() -> None:
        engine.take_batches(lambda: False)
        engine.batch = 0

    seconds = bench.seconds(epoch, repeats=5, warm=2) / steps
    return 1e3 * seconds, "recorded" if engine.stepper.recorded else "not recorded"


def peer_seconds(bench: Bench, cells: Cells) -> float:
    """Seconds of a step of the dense peer."""
    k, batch = (4, 64) if bench.small else (K, BATCH)
    peer = DensePeer(cells.values, k, batch, bench.device)
    seconds = bench.seconds(peer.epoch, repeats=2, warm=1) / (cells.values.shape[0] // batch)
    del peer
    if bench.on_card:
        torch.cuda.empty_cache()
    return seconds
