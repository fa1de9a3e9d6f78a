"""Compilation of loops with numba, cached where some folder can hold the cache."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
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


def keep_compiled(module: Any, *names: str) -> None:
    """Let numba keep what it compiles of a library's functions, as it does of ours.

    A library that asks for no cache is compiled anew in every job; umap-learn's graph alone took 4.5 s of a
    processor where its search of 400 cells takes 0.02 s. Numbers are the same, it is the same machine code.
    Where nothing can be written, or the library has no such function, all stays as it was.

    Parameters
    ----------
    module : module
    *names : str
        Its compiled functions, none of which has been called.
    """
    for name in names:
        function = getattr(module, name, None)
        if hasattr(function, "enable_caching"):
            with suppress(RuntimeError):
                function.enable_caching()
