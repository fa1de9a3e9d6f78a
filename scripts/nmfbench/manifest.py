"""What a run was asked to do, written before it does anything; and what it left undone."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nmfbench.job import commit, versions, write_json


def write(path: str, config: Mapping[str, Any], repository: Path, configfiles: Sequence[str]) -> None:
    """Write ``manifest.json``: command, config with its defaults, commit, versions, host.

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
            "user": getpass.getuser(),
            "config": config,
        },
    )


def say_what_is_missing(results: Iterable[str], logs: str) -> None:
    """Print, after a failure, which fits are there and how to go on."""
    results = list(results)
    missing = [result for result in results if not Path(result).exists()]
    lines = [f"{len(results) - len(missing)} of {len(results)} fits are there."]
    lines += [f"  missing: {Path(result).parent}" for result in missing]
    lines += [
        f"The reason stands in the failed rule's log, shown above and kept under {logs}/.",
        "The same command goes on from here: what is done stays, training resumes from its checkpoint.",
        "To see the scores of what is there already: add the target partial_tables.",
    ]
    sys.stderr.write("\n".join(lines) + "\n")
