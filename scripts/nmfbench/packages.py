"""Packages that one choice of the config alone needs, and that the default installation therefore has not."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import NamedTuple

from nmfbench.errors import InputError


class Package(NamedTuple):
    """A package, how pip is asked for it, and which of ``envs/*.yaml`` has it."""

    requirement: str
    module: str
    environment: str

    def absent(self, name: str, what: str = "model", key: str = "models") -> InputError:
        """What to say of a model, or what else `key` of the config lists, that lacks its package."""
        return InputError(
            f"{what} {name}",
            f"the package {self.requirement}",
            "it is not installed",
            f"pip install {self.requirement}, run with --sdm conda (envs/{self.environment}.yaml), or leave "
            f"{name} out of `{key}`",
        )


HARMONYPY = Package("harmonypy==0.0.10", "harmonypy", "harmony")
SCVI_TOOLS = Package("scvi-tools==1.4.2", "scvi", "scvi")
SCIB_METRICS = Package("scib-metrics==0.5.10", "scib_metrics", "kbet")


def missing_packages(
    wanted: Iterable[tuple[str, Package | None]], what: str = "model", key: str = "models"
) -> list[InputError]:
    """What to say before a run whose jobs use this environment, of what it lacks a package for.

    Parameters
    ----------
    wanted : iterable of (str, Package or None)
        Names in the config, and what each needs.
    what, key : str
        What they are, and the key of the config that lists them.
    """
    return [
        package.absent(name, what, key)
        for name, package in wanted
        if package and not find_spec(package.module)
    ]
