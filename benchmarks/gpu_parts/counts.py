"""The Bayesian models beside a sweep of the Poisson factorisation over the same nonzeros."""

from __future__ import annotations

from collections.abc import Iterator

from bayesian_speed import our_engine, pnmf_sweep

from gpu_parts.cells import cells_of
from gpu_parts.registry import Bench, Line, part

K, CAVI_SWEEPS, SVI_SWEEPS = 80, 3.0, 5.0


@part("counts")
def counts(bench: Bench) -> Iterator[Line]:
    """An epoch of `cavi` and a step of `svi`, all cells at once: 60,000 x 20,000, 49e6 nonzeros."""
    X, k = cells_of(bench, 60_000, 20_000, 1_100).counts, 4 if bench.small else K
    sweep = bench.seconds(pnmf_sweep(X, k, bench.device), repeats=10)
    yield Line(f"pnmf sweep, {X.nnz:,} nonzeros, rank {k}", 1e3 * sweep, "ms")
    where = "cuda" if bench.on_card else "stand-in"
    epoch = bench.seconds(our_engine(X, k, "cavi", where).advance, repeats=5, warm=2)
    yield Line("cavi epoch, the same", 1e3 * epoch, "ms", 50.0)
    yield Line("the same, in sweeps of pnmf", epoch / sweep, "sweeps", CAVI_SWEEPS)
    # a row of svi is ten steps
    step = bench.seconds(our_engine(X, k, "svi", where).advance, repeats=2, warm=1) / 10
    yield Line(
        "svi step, in sweeps of pnmf", step / sweep, "sweeps", SVI_SWEEPS, beside=f"{1e3 * step:.3g} ms"
    )
