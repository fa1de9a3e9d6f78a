"""The pretended cluster, and everything that is run on it; the tests look at what came of it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import scenarios
from cluster import TESTBED, daemons


@pytest.fixture(scope="session", autouse=True)
def testbed() -> Iterator[None]:
    """A real SLURM, for as long as the tests last."""
    can = subprocess.run([TESTBED, "check"], capture_output=True, text=True, check=False)
    if can.returncode == 3:
        pytest.skip(can.stdout.strip())
    before = daemons()
    up = subprocess.run([TESTBED, "up"], capture_output=True, text=True, timeout=180, check=False)
    assert up.returncode == 0, up.stdout + up.stderr
    try:
        yield
    finally:
        subprocess.run([TESTBED, "down"], timeout=180, check=True)
    left = daemons() - before
    assert not left, f"still running: {left}"


@pytest.fixture(scope="session")
def workplace(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="session")
def demo(testbed, workplace) -> scenarios.Pair:
    """The whole workflow, on the cluster and on this machine."""
    return scenarios.demo(workplace)


@pytest.fixture(scope="session")
def played(demo, workplace) -> dict[str, object]:
    """What came of every scenario; some at a time, since most of their time is waiting for polls.

    A scenario that failed gives its error to each test that asks for it.
    """
    with ThreadPoolExecutor(4) as pool:
        futures = {}
        for scenario in scenarios.SIDE_BY_SIDE:
            folder = workplace / scenario.__name__
            if scenario in scenarios.ON_A_FINISHED_RUN:
                shutil.copytree(demo.cluster.folder, folder)
            futures[scenario.__name__] = pool.submit(scenario, folder)
    return futures


@pytest.fixture
def result_of(played):
    """What a scenario gave back, or its error."""
    return lambda scenario: played[scenario.__name__].result()
