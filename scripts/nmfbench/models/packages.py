"""Packages that one kind of model alone needs, and that the default installation therefore has not."""

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

    def absent(self, model: str) -> InputError:
        """What to say of a model whose package is not installed."""
        return InputError(
            f"model {model}",
            f"the package {self.requirement}",
            "it is not installed",
            f"pip install {self.requirement}, run with --sdm conda (envs/{self.environment}.yaml), or leave "
            f"{model} out of `models`",
        )


HARMONYPY = Package("harmonypy==0.0.10", "harmonypy", "harmony")
SCVI_TOOLS = Package("scvi-tools==1.4.2", "scvi", "scvi")


def missing_packages(models: Iterable[tuple[str, Package | None]]) -> list[InputError]:
    """What to say before a run whose jobs use this environment, of models that it lacks a package for.

    Parameters
    ----------
    models : iterable of (str, Package or None)
        Names in the config, and what each needs.
    """
    return [package.absent(model) for model, package in models if package and not find_spec(package.module)]
