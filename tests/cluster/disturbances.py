"""What is done to the pretended cluster itself, when nothing else runs on it."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from cluster import TESTBED, TOY, Run, ask, wait_until
from scenarios import CPU, DATASET, ONCE, WORKFLOW, of_fit


def controller_away(folder: Path) -> Run:
    """The controller is stopped and started while a job runs."""
    run = Run(folder, *TOY, *ONCE, "nap_25.txt")
    # not earlier: a job whose step is being launched at this moment waits for minutes
    wait_until((folder / "logs" / "nap_25.log").exists, "its job", run)
    ask(str(TESTBED), "stop")
    time.sleep(8)
    ask(str(TESTBED), "start")
    return run.wait()


@dataclass
class Drained:
    """A run whose node was drained, and how its job then stood in the queue."""

    run: Run
    states: list[str]


def drained_node(folder: Path) -> Drained:
    """Every CPU node is drained when a job is submitted, and resumed after a while."""
    ask("scontrol", "update", "nodename=c[1-2]", "state=drain", "reason=test")
    try:
        run = Run(folder, *TOY, *ONCE, "nap_1.txt")
        run.job_of("nap")
        time.sleep(6)
        states = run.queue("%t %r")
    finally:
        ask("scontrol", "update", "nodename=c[1-2]", "state=resume")
    return Drained(run.wait(), states)


@dataclass
class Unaccounted:
    """Runs on a cluster without accounting."""

    run: Run
    failing: Run


def without_accounting(folder: Path, elsewhere: Path) -> Unaccounted:
    """Part of the workflow and a failing job where `sacct` answers nothing; there is no way back."""
    ask(str(TESTBED), "forget")
    shutil.rmtree(folder / "results" / DATASET / "tables")
    for name in ("clusters.tsv.gz", "clustering.tsv"):
        of_fit(folder, "base_nmf", name).unlink()
    failing = Run(elsewhere, *TOY, *ONCE, "all")
    call = [*WORKFLOW, *CPU, "--rerun-triggers", "mtime", "--", f"results/{DATASET}/tables/scores.tsv"]
    return Unaccounted(Run(folder, *call).wait(), failing.wait())
