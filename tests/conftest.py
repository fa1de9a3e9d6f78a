"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Small matrices are slower on several threads, much so on a busy machine. Jobs of the workflow set their own.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

REPOSITORY = Path(__file__).parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with whole workflows: they take longest, and other processes share the rest out meanwhile."""
    items.sort(key=lambda item: "workflow" not in item.path.parts)


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def real_h5ad() -> Path:
    """The real dataset that NMFBENCH_REAL_H5AD names; tests that use it skip without it."""
    path = os.environ.get("NMFBENCH_REAL_H5AD")
    if not path:
        pytest.skip("NMFBENCH_REAL_H5AD names no file")
    return Path(path)
