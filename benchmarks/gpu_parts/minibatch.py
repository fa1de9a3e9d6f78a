"""Minibatch steps of the autoencoders beside the dense peer's."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from gpu_parts.cells import Cells, cells_of
from gpu_parts.peer import DensePeer
from gpu_parts.registry import Bench, Line, part
from nmfbench.models import get_model
from nmfbench.models.labels import FitData, encode_conditions
from nmfbench.rows.memory import InMemoryRows

K, BATCH = 80, 512


@part("minibatch")
def minibatch(bench: Bench) -> Iterator[Line]:
    """`ae_nmf` at 20,000 and 60,000 genes and `cae_nmf2` at 20,000, each by epochs of all its cells."""
    for p, n, draws, least, most in ((60_000, 20_000, 2_600, 2.0, 1.0), (20_000, 40_000, 1_100, 3.0, 0.5)):
        cells = cells_of(bench, n, p, draws)
        ours, theirs = 1e3 * step_seconds(bench, "ae_nmf", cells), 1e3 * peer_seconds(bench, cells)
        size = f"{cells.values.shape[1]:,} genes, {cells.values.nnz / cells.values.shape[0]:,.0f} nonzeros"
        yield Line(f"minibatch step, {size}", ours, "ms", most, beside=f"dense peer {theirs:.3g} ms")
        yield Line("the same, times the dense peer's speed", theirs / ours, "x", least, at_most=False)
    cells = cells_of(bench, n, p, draws)
    ours = 1e3 * step_seconds(bench, "cae_nmf2", cells, conditions=cells.donors)
    yield Line("cae_nmf2 step, 20,000 genes, 16 donors", ours, "ms", 1.5)
    ours = 1e3 * step_seconds(bench, "cae_nmf1", cells, conditions=cells.donors)
    yield Line("cae_nmf1 step, the same", ours, "ms", beside="HSIC off: the warm-up's step")


def step_seconds(bench: Bench, kind: str, cells: Cells, conditions=None) -> float:
    """Seconds of a step: epochs of a fit without their evaluation, over their number of batches."""
    k, batch = (4, 64) if bench.small else (K, BATCH)
    model = get_model(kind)(
        k, solver="minibatch", init="random", batch_size=batch, random_state=0, device=str(bench.device)
    )
    model.seed_ = 0
    n = cells.values.shape[0]
    data = FitData.of(InMemoryRows(cells.values), encode_conditions(conditions, n), None)
    engine = model.epochs_of(data, bench.device)
    steps = len(engine.sampler.epoch(0))

    def epoch() -> None:
        engine.take_batches(lambda: False)
        engine.batch = 0

    return bench.seconds(epoch, repeats=5, warm=2) / steps


def peer_seconds(bench: Bench, cells: Cells) -> float:
    """Seconds of a step of the dense peer."""
    k, batch = (4, 64) if bench.small else (K, BATCH)
    peer = DensePeer(cells.values, k, batch, bench.device)
    seconds = bench.seconds(peer.epoch, repeats=2, warm=1) / (cells.values.shape[0] // batch)
    del peer
    if bench.on_card:
        torch.cuda.empty_cache()
    return seconds
