"""XᵀX: the pass with its transfer, what lies between its end and the first sweep, the way to an objective."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch

from gpu_parts.cells import Cells, cells_of
from gpu_parts.minibatch import BATCH, K
from gpu_parts.peer import DensePeer, relative_error
from gpu_parts.registry import Bench, Line, part
from nmfbench.models import get_model
from nmfbench.rows.memory import InMemoryRows
from nmfbench.statistics.card_gram import gram_on_card


def pass_seconds(bench: Bench, cells: Cells) -> float:
    """Seconds of a pass from memory to XᵀX on the device; the second of two."""
    source = InMemoryRows(cells.values)

    def gather() -> None:
        gram_on_card(((X, None) for _, X in source.blocks()), source.n_columns, bench.device)

    return bench.seconds(gather, repeats=1, warm=1)


@part("pass")
def gram(bench: Bench) -> Iterator[Line]:
    """The pass at both sizes, and a fit's seconds from its end to the first sweep."""
    for p, n, draws, least in ((60_000, 20_000, 2_600, 45e3), (20_000, 60_000, 1_100, 150e3)):
        cells = cells_of(bench, n, p, draws)
        seconds = pass_seconds(bench, cells)
        what = f"pass, {p:,} genes, with transfer"
        yield Line(what, cells.values.shape[0] / seconds, "cells/s", least, at_most=False)
    model = get_model("ae_nmf")(4 if bench.small else K, random_state=0, **where(bench), max_iter=3)
    model.fit(cells.values, progress=False)
    rows = [row["seconds"] for row in model.history_]
    before = max(rows[1] - seconds, 0.0)
    route = model.solver_choice_.route
    yield Line("from the pass to the end of the first sweep", before, "s", 1.0, beside=f"route {route}")
    yield Line("a sweep of ae_nmf, 20,000 genes", 1e3 * (rows[-1] - rows[1]) / max(len(rows) - 2, 1), "ms")


def where(bench: Bench) -> dict:
    """The device of a fit; the exact one stays on the processor where that stands in for a card."""
    return {"device": str(bench.device)}


@part("to_objective")
def to_objective(bench: Bench) -> Iterator[Line]:
    """Seconds to what the dense peer reaches after 100 epochs, from the same cells in memory."""
    cells = cells_of(bench, 60_000, 20_000, 1_100)
    X, k, batch, epochs = cells.values, K, BATCH, 100
    if bench.small:
        k, batch, epochs = 4, 64, 3
    peer = DensePeer(X, k, batch, bench.device)
    theirs = peer.train(epochs, bench.wait)
    asked = relative_error(X, peer.W.detach().cpu().numpy())
    del peer
    if bench.on_card:
        torch.cuda.empty_cache()
    reached = {}
    for solver in ("auto", "minibatch"):  # a few cells, so that no compiling is timed
        get_model("ae_nmf")(4, solver=solver, max_iter=1, random_state=0, **where(bench)).fit(X[:600])
    for solver in ("auto", "minibatch"):
        settings = {"solver": solver, "batch_size": batch, "random_state": 0, **where(bench)}
        model = get_model("ae_nmf")(k, max_iter={"minibatch": epochs}, **settings)
        began = time.perf_counter()
        model.fit(X, progress=False)
        whole = time.perf_counter() - began
        hits = [row["seconds"] for row in model.history_ if row["relative_error"] <= asked]
        told = f"ends at {model.relative_error_:.4f} after {whole:.1f} s, embedding included"
        reached[solver] = hits[0] if hits else None, told
    seconds, told = reached["auto"]
    beside = f"dense peer {theirs:.1f} s for {asked:.4f}; {told}"
    yield Line("to the dense peer's objective after 100 epochs", seconds, "s", 2.0, beside=beside)
    seconds, told = reached["minibatch"]
    yield Line("the same by minibatches", seconds, "s", beside=told)


@part("precision")
def precision(bench: Bench) -> Iterator[Line]:
    """What TF32 in the steps does to the objective after ten epochs."""
    cells = cells_of(bench, 60_000, 20_000, 1_100)
    settings = {"solver": "minibatch", "max_iter": 10, "random_state": 0, **where(bench)}
    found = {}
    for name in ("float32", "tf32"):
        model = get_model("ae_nmf")(4 if bench.small else K, precision=name, **settings)
        model.fit(cells.values, progress=False)
        used = model.minibatches_["precision"]["used"]
        seconds = (model.history_[-1]["seconds"] - model.history_[1]["seconds"]) / 9
        found[name] = model.history_[-1]["objective"], used, seconds
    (exact, _, slow), (near, used, fast) = found["float32"], found["tf32"]
    beside = f"used: {used}; an epoch {1e3 * fast:.3g} ms, {1e3 * slow:.3g} in float32"
    yield Line("objective in TF32, relative difference", abs(near / exact - 1), "", beside=beside)
