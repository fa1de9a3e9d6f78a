"""Scores of one predictor over seeds: ``multi_seed_metrics.json`` with the published keys, and its table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nmfbench.atomic import whole_file
from nmfbench.job import write_json

AGGREGATE = "multi_seed_metrics.json"


def aggregate(runs: Sequence[dict[str, Any]]) -> None:
    """Write ``multi_seed_metrics.json`` of one predictor, and ``multi_seed_metrics.md`` beside it.

    The keys are the published ones and ours. ``std`` is of ddof 0 as published, ``std_sample`` of ddof 1. The
    order is that of the config, whatever the order in which the jobs ended.

    Parameters
    ----------
    runs : sequence of dict
        Rows of :meth:`nmfbench.perturbation.grid.Grid.grid` that differ only in their seed. A seed without
        scores is named in ``failed``; without any seed neither file is there.
    """
    target = Path(runs[0]["folder"]).parent / AGGREGATE
    page = target.with_suffix(".md")
    per_seed, devices, failed = gathered(runs)
    if not per_seed:
        target.unlink(missing_ok=True)
        page.unlink(missing_ok=True)
        return
    content = {
        "base_mode": "train_sample_eval" if runs[0]["trained"] else "sample_eval",
        "seeds": [run["seed"] for run in runs],
        "devices": devices,
        "per_seed": per_seed,
        "aggregate": summed_up(per_seed),
        "n_ok": len(per_seed),
        "n_failed": len(failed),
        "failed": failed,
    }
    write_json(target, content)
    with whole_file(page) as stream:
        stream.write(as_markdown(content).encode())


def gathered(runs: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, str], list[int]]:
    """Metrics of the seeds that have them, the device of each, and the seeds that have none."""
    per_seed, devices, failed = [], {}, []
    for run in runs:
        folder = Path(run["folder"])
        record = folder / "metrics.json"
        if not record.exists():
            failed.append(run["seed"])
            continue
        per_seed.append({"seed": run["seed"], "metrics": _clean(json.loads(record.read_text())["metrics"])})
        trained = folder / "run.json"
        devices[str(run["seed"])] = json.loads(trained.read_text())["device"] if trained.exists() else "cpu"
    return per_seed, devices, failed


def summed_up(per_seed: Sequence[dict[str, Any]]) -> dict[str, dict[str, float | int | None]]:
    """mean, std, min, max, std_sample, sem and n of each metric over the seeds that have it."""
    summed: dict[str, dict[str, float | int | None]] = {}
    for metric in dict.fromkeys(key for one in per_seed for key in one["metrics"]):
        found = [one["metrics"].get(metric) for one in per_seed]
        values = np.array([value for value in found if value is not None], dtype=float)
        if not len(values):
            continue
        sample = float(np.std(values, ddof=1)) if len(values) > 1 else None
        summed[metric] = {
            "mean": float(values.mean()),
            "std": float(values.std()),
            "min": float(values.min()),
            "max": float(values.max()),
            "std_sample": sample,
            "sem": None if sample is None else sample / len(values) ** 0.5,
            "n": len(values),
        }
    return summed


def as_markdown(content: dict[str, Any]) -> str:
    """A table of the aggregate: a row for each metric, a column for each seed, then mean, std and range."""
    seeds = content["seeds"]
    by_seed = {one["seed"]: one["metrics"] for one in content["per_seed"]}
    head = ["metric", *(f"seed {seed}" for seed in seeds), "mean", "std (n - 1)", "min", "max", "n"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for metric, one in content["aggregate"].items():
        cells = [_number(by_seed.get(seed, {}).get(metric)) for seed in seeds]
        cells += [_number(one[key]) for key in ("mean", "std_sample", "min", "max")]
        lines.append(f"| {' | '.join([metric, *cells, str(one['n'])])} |")
    gaps = ", ".join(map(str, content["failed"]))
    text = f"{content['n_ok']} of {len(seeds)} seeds" + (f"; missing: {gaps}" if gaps else "")
    return f"{text}\n\n" + "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "NA" if value is None else f"{value:.6g}"


def _clean(metrics: dict[str, float]) -> dict[str, float | None]:
    return {key: None if value != value else value for key, value in metrics.items()}
