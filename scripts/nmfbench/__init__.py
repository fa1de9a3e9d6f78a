"""Benchmark of non-negative embedding models for single-cell atlases.

Importing the package loads nothing heavy: every module imports numpy, torch or
scanpy only where it is needed. Start at :mod:`nmfbench.models` for the
estimators and at ``workflow/Snakefile`` for the workflow around them.

Import it before numpy, scanpy and torch: it has their waiting threads sleep, which those read once.
"""

from nmfbench.threads import let_waiting_threads_sleep

let_waiting_threads_sleep()

__version__ = "0.1.0"
