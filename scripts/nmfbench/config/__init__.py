"""The configuration: every key, its meaning, its bounds and its default.

This package and the sections beside the models (``models/*/card.py``) are the only places where a
default of the workflow is written. It knows neither files nor Snakemake: :func:`load_config` takes
the mapping that Snakemake parsed and returns a frozen :class:`Config`, or raises one
:class:`~nmfbench.errors.InputError` that lists every mistake with its path.
"""

from nmfbench.config.dataset import Dataset
from nmfbench.config.load import load_config
from nmfbench.config.schema import Config

__all__ = ["Config", "Dataset", "load_config"]
