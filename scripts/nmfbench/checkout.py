"""That a workflow runs the package which lies beside its rules, whatever else is installed."""

from __future__ import annotations

import os
from pathlib import Path

import nmfbench
from nmfbench.errors import InputError


def lend_to_jobs(folder: str | Path) -> None:
    """Let every process that begins from here find the packages in a folder before any other.

    Snakemake puts the folder of a script behind all that is installed; ``pip install -e`` of another
    checkout would come first.
    """
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    first = str(folder)
    os.environ["PYTHONPATH"] = os.pathsep.join([first, *(path for path in others if path != first)])


def check_package(scripts: str | None) -> None:
    """Stop where the package that was imported is not the one beside a job's script.

    Parameters
    ----------
    scripts : str or None
        Folder of the script; nothing is checked where no package lies in it.

    Raises
    ------
    InputError
        Naming both places.
    """
    if scripts is None:
        return
    beside, found = Path(scripts, "nmfbench"), Path(nmfbench.__file__).parent
    if beside.is_dir() and not beside.samefile(found):
        raise InputError(
            "nmfbench: the package of another checkout was imported",
            f"the package beside the rules, {beside}",
            str(found),
            "run the workflow in the environment of its own checkout, or `pip uninstall nmfbench` in this "
            "one (the rules find their package without)",
        )
