"""Compilation of loops with numba, cached where some folder can hold the cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(**options: Any) -> Callable:
    """A decorator: ``numba.njit(cache=True, **options)``, without the cache where nothing can be written.

    numba writes beside the source, or into the user's cache folder where the checkout is read-only; where
    neither can be written it refuses, and the loop is then compiled in every process.
    """

    def compile_one(function):
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:
            return numba.njit(**options)(function)

    return compile_one


compiled_loop = compiled(nogil=True, error_model="numpy")
"""Compiles a loop that several threads may run side by side, each over a range of its own."""
