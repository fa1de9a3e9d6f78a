"""``nmfbench fit``: one model on one file, with the defaults of the config and a training job's files."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from nmfbench.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("file", type=Path, metavar="mydata.h5ad", help="raw counts, in raw.X, X or --matrix")
    parser.add_argument("--model", default="ae_nmf", help="a model of the config (default: ae_nmf)")
    parser.add_argument("--rank", type=int, default=30, help="factors (default: 30)")
    parser.add_argument("--seed", type=int, default=42, help="training seed (default: 42)")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda", "mps"])
    parser.add_argument(
        *("--set", "-s"), action="append", default=[], metavar="KEY=VALUE",
        help="a key of the model's section, as in config/README.md; may be repeated",
    )  # fmt: skip
    parser.add_argument("--matrix", default="auto", help="where the counts lie: auto, raw, X or a layer")
    parser.add_argument("--cell-type", default="cell_type", metavar="COLUMN", help="column with cell types")
    parser.add_argument("--donor", default="donor_id", metavar="COLUMN", help="column with donors")
    parser.add_argument("--min-cells", type=int, default=1, help="cells that a donor must have (default: 1)")
    parser.add_argument("--out", type=Path, default=Path("fit"), help="folder of the results (default: fit)")


def run(options: argparse.Namespace) -> None:
    """Filter the file, fit the model, and say where its result lies."""
    import torch

    from nmfbench.config import load_config
    from nmfbench.data import filter_donors
    from nmfbench.device import resolve_device
    from nmfbench.job import Job
    from nmfbench.models import get_card
    from nmfbench.train import train

    dataset = {
        **{"path": str(options.file), "cell_type_column": options.cell_type, "donor_column": options.donor},
        **{"min_cells_per_donor": options.min_cells, "matrix": {"source": options.matrix}},
    }
    asked = {
        **{"datasets": {"file": dataset}, "models": {options.model: settings(options.set)}},
        **{"ranks": [options.rank], "seeds": [options.seed], "device": options.device},
    }
    config = load_config(asked, where="nmfbench fit")
    section, source = config.models[options.model], config.datasets["file"]
    if get_card(section.kind).gpu:
        resolve_device(config.device)  # refused before a file is written
    torch.set_num_threads(options.threads)
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    keys = ("cell_type_column", "donor_column", "condition_columns", "keep_obs", "obs_filters")
    keys += ("min_cells_per_donor", "matrix", "genes")
    choices = source.model_dump(include=set(keys)) | {"keep_obs": section.obs_columns()}
    filter_donors(options.file, out / "filtered.h5ad", out / "donors.tsv", **choices)
    terminal = sys.stderr if sys.stderr.isatty() else None
    train(
        str(out / "filtered.h5ad"),
        result=str(out / "result.h5ad"),
        history=str(out / "history.tsv"),
        record=str(out / "run.json"),
        kind=section.kind,
        name=options.model,
        display_name=config.display_name(options.model),
        settings=section.parameters(),
        rank=options.rank,
        seed=options.seed,
        device=config.device,
        normalisation=config.normalisation.model_dump(),
        condition_columns=source.condition_columns,
        run=Job(threads=options.threads, terminal=terminal),
    )
    sys.stdout.write(
        f"{out / 'result.h5ad'}: embedding in obsm, loadings in varm; run.json says how it was made\n"
    )


def settings(given: list[str]) -> dict[str, Any]:
    """Keys and values of ``--set``, the values read as YAML."""
    import yaml

    found = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise InputError("--set", "KEY=VALUE, such as penalty_W=0.1", repr(text), "mend the option")
        found[key] = yaml.safe_load(value)
    return found
