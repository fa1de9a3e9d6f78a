"""How thread pools wait for work."""

from __future__ import annotations

import os


def let_waiting_threads_sleep() -> None:
    """Have threads that wait for work sleep; to be called before NumPy and torch are first imported.

    Spinning ones made a fit three times slower beside another job (OpenMP's), and 2.8 times slower alone on
    two cores (OpenBLAS's, which spin some 20 ms after each product; docs/solvers.md).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "16")  # 2^16 cycles in place of 2^26
