"""The pretended cluster, and everything that is run on it; the tests look at what came of it."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import pytest

import scenarios
import screens
from cluster import TESTBED, Run, processes

# `timeout` and CI end the tests by SIGTERM: like Ctrl-C, it must not leave a scheduler behind
signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def testbed() -> Iterator[None]:
    """A real SLURM, for as long as the tests last."""
    can = subprocess.run([TESTBED, "check"], capture_output=True, text=True, check=False)
    if can.returncode == 3:
        pytest.skip(can.stdout.strip())
    before = processes()
    up = subprocess.run([TESTBED, "up"], capture_output=True, text=True, timeout=180, check=False)
    assert up.returncode == 0, up.stdout + up.stderr
    try:
        yield
    finally:
        Run.end_all()
        subprocess.run([TESTBED, "down"], timeout=180, check=True)
    left = processes() - before
    assert not left, f"still running: {left}"


@pytest.fixture(scope="session")
def workplace(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="session")
def pool(testbed) -> Iterator[ThreadPoolExecutor]:
    """Scenarios are played side by side: most of their time is waiting for polls."""
    pool = ThreadPoolExecutor(6)
    try:
        yield pool
    finally:
        Run.end_all()  # those of scenarios that failed, or all when the tests are interrupted
        pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="session")
def seeds_begun(pool, workplace) -> Future:
    """The second task, which needs no finished run of the first."""
    play = screens.a_gpu_for_each_seed
    return pool.submit(play, workplace / play.__name__)


@pytest.fixture(scope="session")
def begun(request, pool, workplace) -> tuple[scenarios.Pair, Path, dict[Callable, Future]]:
    """The whole workflow on the cluster and here, a finished run, and scenarios that mostly begin with it."""
    futures: dict[Callable, Future] = {}
    pair = scenarios.demo(workplace)
    base = pair.local
    # with `pytest -k` it may be that nobody looks at them
    wanted = {name for item in request.session.items for name in item.fixturenames}
    if "seeds_begun" in wanted:
        request.getfixturevalue("seeds_begun")
    if "played" in wanted:
        for play in scenarios.ON_NOTHING:
            futures[play] = pool.submit(play, workplace / play.__name__)
        if pair.dataset != scenarios.DATASET:
            base = Run(workplace / "base", *scenarios.WORKFLOW, *scenarios.CPU, local=True)
        base.succeeded()
        for play in scenarios.ON_A_FINISHED_RUN:
            folder = workplace / play.__name__
            shutil.copytree(base.folder, folder)
            futures[play] = pool.submit(play, folder)
    return pair, base.folder, futures


@pytest.fixture(scope="session")
def demo(begun) -> scenarios.Pair:
    """The whole workflow, on the cluster and on this machine."""
    pair = begun[0]
    pair.cluster.wait(2700)
    pair.local.wait(2700)
    return pair


@pytest.fixture(scope="session")
def base(begun) -> Path:
    """A finished run of the smallest workflow, which most scenarios begin with."""
    return begun[1]


@pytest.fixture(scope="session")
def played(demo, begun) -> dict[Callable, Future]:
    """All scenarios, ended."""
    wait(begun[2].values())
    return begun[2]


@pytest.fixture
def result_of(played):
    """What a scenario gave back; its error, if it came to one."""
    return lambda play: played[play].result()
