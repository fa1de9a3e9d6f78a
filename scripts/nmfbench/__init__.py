"""Benchmark of non-negative embedding models for single-cell atlases.

Importing the package loads nothing heavy: every module imports numpy, torch or
scanpy only where it is needed. Start at :mod:`nmfbench.models` for the
estimators and at ``workflow/Snakefile`` for the workflow around them.
"""

__version__ = "0.1.0"
