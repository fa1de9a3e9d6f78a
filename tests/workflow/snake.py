"""Calling Snakemake as a person does, in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


@dataclass
class Call:
    """What a call gave back."""

    code: int
    text: str


def snakemake(
    *arguments: str | Path,
    directory: Path | None = None,
    cwd: Path = REPOSITORY,
    timeout: int = 1200,
    brief: bool = False,
) -> Call:
    """Run ``snakemake`` (from the repository, or from `cwd`); stdout and stderr come back together.

    Every job is printed, unless `brief` leaves it to the profile.
    """
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--nocolor", *map(str, arguments)]
    if not brief:
        command += ["--quiet", "host"]
    if directory is not None:
        command += ["--directory", str(directory)]
    environment = {key: value for key, value in os.environ.items() if key != "SNAKEMAKE_PROFILE"}
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Call(done.returncode, done.stdout)
