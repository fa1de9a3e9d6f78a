"""``nmfbench config check``: what a config asks for, and whether its files can give it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from nmfbench.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("action", choices=["check"], help="read the config and the outline of every .h5ad")
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="config.yaml", help="as --configfile takes them"
    )


def run(options: argparse.Namespace) -> None:
    """Print what each dataset holds; stop at the first thing that cannot be used."""
    from nmfbench.config import load_config
    from nmfbench.outline import outline

    config = load_config(read_config(options.files), where=", ".join(map(str, options.files)))
    say = sys.stdout.write
    for name, dataset in config.datasets.items():
        say(f"{name}: {outline(dataset)}\n")
    models = ", ".join(config.display_name(model) for model in config.models)
    n_fits = len(config.models) * len(config.ranks) * len(config.seeds)
    say(f"models: {models}\n")
    say(f"ranks: {', '.join(map(str, config.ranks))}; seeds: {', '.join(map(str, config.seeds))}\n")
    say(f"fits: {n_fits} for each dataset, scored by {', '.join(config.labels)}\n")


def read_config(files: list[Path]) -> dict[str, Any]:
    """Read config files as Snakemake merges them: later ones change what earlier ones say."""
    import yaml

    merged: dict[str, Any] = {}
    for file in files:
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise InputError(
                f"{file}: it cannot be read",
                "a config in YAML, such as config/example.yaml",
                " ".join(str(error).split()),
                "name a file that is there, or mend the line",
            ) from error
        if not isinstance(content, dict):
            raise InputError(f"{file}", "keys and values", type(content).__name__, "see config/README.md")
        _update(merged, content)
    return merged


def _update(into: dict[str, Any], changes: dict[str, Any]) -> None:
    """Take over keys, those of nested sections one by one."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _update(into[key], value)
        else:
            into[key] = value
