"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


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
