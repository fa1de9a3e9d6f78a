"""How fast the card of a job is: two rates, measured in a tenth of a second when they are first asked for."""

from __future__ import annotations

import time
from functools import cache

import torch

from nmfbench.rows.dense import products_in

BUDGET = 0.05
"""Seconds for each of the two."""

_SIDE, _BYTES = 4096, 2**26


@cache
def measured_rates(device: torch.device, side: int = _SIDE, n_bytes: int = _BYTES) -> tuple[float, float]:
    """Multiply-adds a second of a float32 product, and bytes a second from pinned memory to the device.

    Parameters
    ----------
    device : torch.device
    side : int
        Rows and columns of the matrices.
    n_bytes : int
        Of a copy.

    Returns
    -------
    product, copy : float
        Two digits of each: a choice that rests on them should not turn with noise.
    """
    with products_in("float32"):
        A = torch.ones((side, side), device=device)
        out = torch.empty_like(A)
        product = side**3 / _seconds(lambda: torch.mm(A, A, out=out), device)
    here = torch.zeros(n_bytes, dtype=torch.uint8, pin_memory=device.type == "cuda")
    there = torch.empty(n_bytes, dtype=torch.uint8, device=device)
    copy = n_bytes / _seconds(lambda: there.copy_(here, non_blocking=True), device)
    return float(f"{product:.1e}"), float(f"{copy:.1e}")


def _seconds(work, device: torch.device) -> float:
    """Seconds of a call: the first does not count, then as many as there is time for, three at least."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    work()
    wait()
    began, calls = time.perf_counter(), 0
    while calls < 3 or time.perf_counter() - began < BUDGET:
        work()
        calls += 1
        wait()
    return (time.perf_counter() - began) / calls
