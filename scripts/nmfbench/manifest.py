"""What a run was asked to do, written before it does anything; and what it left undone."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nmfbench.cluster import Site
from nmfbench.inapplicable import reason_in
from nmfbench.job import commit, versions, write_json
from nmfbench.tables.failures import NOT_RUN, Evidence, Failure
from nmfbench.tables.runs import identity, run_folder
from nmfbench.tables.shared import SharedJobs, name_of


def write(
    path: str,
    config: Mapping[str, Any],
    repository: Path,
    configfiles: Sequence[str],
    *,
    executor: str,
    site: Site,
    sharing: Mapping[str, Any],
) -> None:
    """Write ``manifest.json``: command, config with its defaults, commit, versions, host, scheduler.

    Parameters
    ----------
    path : str
        Where the manifest goes.
    config : mapping
        The whole configuration, defaults filled in.
    repository : Path
        The checkout that the workflow runs from.
    configfiles : sequence of str
        The files the configuration was read from.
    executor : str
        Snakemake's executor: ``local``, ``slurm`` ...
    site : Site
        What the profile says about the cluster.
    sharing : mapping
        Of each dataset, whether its fits share their statistics, with the estimate (:mod:`nmfbench.sharing`).
    """
    text = json.dumps(config, sort_keys=True)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_json(
        path,
        {
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "configfiles": [str(file) for file in configfiles],
            "config_sha256": hashlib.sha256(text.encode()).hexdigest(),
            "commit": commit(repository),
            "versions": versions(),
            "host": platform.node(),
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
            "scheduler": _scheduler(executor, site),
            "user": _user(),
            "shared_statistics": sharing,
            "config": config,
        },
    )


def _user() -> str:
    """Who runs it; a number in containers whose user has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _scheduler(executor: str, site: Site) -> dict[str, Any]:
    """Who ran the jobs, with the version of SLURM and the site's part of the profile."""
    found: dict[str, Any] = {"executor": executor}
    if executor == "slurm":
        found["version"] = _output_of("sbatch", "--version")
        found["cluster"] = _cluster_name(_output_of("scontrol", "show", "config"))
        found["site"] = {key: value for key, value in asdict(site).items() if value is not None}
    return found


def _output_of(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _cluster_name(settings: str | None) -> str | None:
    found = re.search(r"^ClusterName\s*= (\S+)", settings or "", re.MULTILINE)
    return found.group(1) if found else None


def report_missing(
    grid: Iterable[Mapping[str, Any]],
    jobs: Iterable[Mapping[str, Any]],
    results: str,
    log_pattern: str,
    logs: str,
) -> None:
    """Print, after a failure, which fits are there, why the others are not, and how to go on.

    Parameters
    ----------
    grid : iterable of mapping
        The expected fits (:mod:`nmfbench.tables.runs`).
    jobs : iterable of mapping
        The jobs that they share (:mod:`nmfbench.tables.shared`).
    results, logs : str
        Folders of the results and of the logs.
    log_pattern : str
        Log of a training, with fields of the fit in braces.
    """
    grid, jobs = list(grid), list(jobs)
    missing = [fit for fit in grid if not (run_folder(fit, results) / "result.h5ad").exists()]
    evidence = Evidence(scheduler_logs=Path(logs, "slurm"))
    shared = SharedJobs(jobs, grid, results, evidence)
    stubs = [fit for fit in grid if reason_in(run_folder(fit, results) / "run.json") is not None]
    lines = [f"{len(grid) - len(missing) - len(stubs)} of {len(grid)} fits are there."]
    if stubs:
        lines.append(f"  not applicable: {', '.join(str(run_folder(fit, results)) for fit in stubs)}")
    for job in jobs:
        why = shared.failure_of(job)
        if not shared.present(job["file"]) and why.kind != NOT_RUN:
            lines.append(f"  failed: {name_of(job)} ({_said(why)})")
    for fit in missing:
        wildcards = "_".join(map(str, identity(fit).values()))
        own = evidence.failure(log_pattern.format(**fit), f"train_{fit['kind']}", wildcards)
        why = shared.failure(fit.get("needs", ()), own)
        lines.append(f"  missing: {run_folder(fit, results)} ({_said(why)})")
    lines += [
        f"The whole story stands in the failed rule's log, shown above and kept under {logs}/.",
        "The same command goes on from here: what is done stays, training resumes from its checkpoint.",
        "To see the scores of what is there already, with every gap and its reason: target partial_tables.",
    ]
    sys.stderr.write("\n".join(lines) + "\n")


def _said(why: Failure) -> str:
    return why.reason if why.reason.startswith(why.kind) else f"{why.kind}: {why.reason}"
