"""Tables of the second task: scores, targets, seeds, differences, what is missing, the aggregate."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nmfbench.perturbation.aggregate import aggregate
from nmfbench.perturbation.front import write_front
from nmfbench.perturbation.scoring.registry import DIRECTIONS, overall
from nmfbench.tables.failures import Evidence
from nmfbench.tables.files import read_table, write_table

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

RUN = ["dataset", "split", "embedding", "predictor", "seed"]
FIT = RUN[:-1]
BASELINES = ("perturbed_mean", "target_mean")
REPLICATE = "replicate"
SUMMARY = ("DES", "PDS", "MAE", "PearsonDelta", "CentredPearson")
OUTPUTS = {
    "train_predictor": ("run.json",),
    "predict_cells": ("profiles.npz",),
    "score_predictions": ("scores.tsv", "targets.tsv", "metrics.json"),
}
CSV_DIGITS = 6


def collect(
    grid: Sequence[dict[str, Any]],
    folder: str | Path,
    *,
    bootstrap: int = 2000,
    scheduler_logs: str | Path | None = None,
) -> None:
    """Write every table of one screen, whatever of it is there, and the aggregate of each predictor.

    Parameters
    ----------
    grid : sequence of dict
        The runs (:meth:`nmfbench.perturbation.grid.Grid.grid`).
    folder : path
        Of the tables.
    bootstrap : int
        Resamples of the targets.
    scheduler_logs : path, optional
    """
    import pandas as pd

    folder = Path(folder)
    covered = coverage(grid, scheduler_logs)
    present = [run for run in grid if Path(run["folder"], "scores.tsv").exists()]
    scores = _joined(present, "scores.tsv", ["metric", "targets", "value", "std", "n"])
    targets = _joined(present, "targets.tsv", ["target", "responsive"])
    replicates = ceilings(grid)
    scores = pd.concat([scores, replicates], ignore_index=True) if len(replicates) else scores
    scores["scaled"] = scaled(scores, _kinds(grid))
    seeds = over_seeds(scores, grid)
    tables = {
        "scores": scores,
        "targets": tidy(targets),
        "seeds": seeds,
        "differences": differences(targets, _kinds(grid), bootstrap),
        "coverage": covered,
    }
    for name, table in tables.items():
        write_table(table, folder / f"perturbation_{name}.tsv")
    names = {run["predictor"]: run["display_name"] for run in grid} | {REPLICATE: "Replicate"}
    for split in dict.fromkeys(run["split"] for run in grid):
        summary = summarise(seeds[seeds["split"] == split], names, _kinds(grid))
        published = summary.drop(columns="predictor")
        write_table(published, folder / f"perturbation_summary_{split}.csv", digits=CSV_DIGITS)
        paired = tables["differences"]
        write_front(folder, split, summary, paired[paired["split"] == split], _kinds(grid))
    for one in _fits(grid):
        aggregate(one)
    gaps = covered[covered["status"] != "ok"]
    log.info("%d of %d runs are complete", len(covered) - len(gaps), len(covered))
    for row in gaps.itertuples():
        log.warning("%s %s seed %s, %s: %s", row.split, row.predictor, row.seed, row.step, row.reason)


def _kinds(grid: Sequence[dict[str, Any]]) -> dict[str, str]:
    return {run["predictor"]: run["kind"] for run in grid}


def _fits(grid: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Runs that differ only in their seed."""
    found: dict[tuple, list[dict[str, Any]]] = {}
    for run in grid:
        found.setdefault(tuple(run[key] for key in FIT), []).append(run)
    return list(found.values())


def coverage(grid: Sequence[dict[str, Any]], scheduler_logs: str | Path | None = None) -> pd.DataFrame:
    """A row for each run: ok, or the first step without a result, the class of its failure and its reason."""
    import pandas as pd

    evidence, rows = Evidence({}, scheduler_logs), []
    for run in grid:
        status, step, reason = "ok", "", ""
        for one, files in OUTPUTS.items():
            if one == "train_predictor" and not run["trained"]:
                continue
            if not all(Path(run["folder"], file).exists() for file in files):
                rule = f"train_{run['kind']}" if one == "train_predictor" else one
                wildcards = "_".join(str(run[key]) for key in RUN)
                why = evidence.failure(run["logs"][one], rule, wildcards)
                status, step, reason = why.kind, one, why.reason
                break
        rows.append([*(run[key] for key in RUN), status, step, reason])
    return pd.DataFrame(rows, columns=[*RUN, "status", "step", "reason"])


def say_what_failed(grid: Sequence[dict[str, Any]], scheduler_logs: str | Path | None = None) -> None:
    """Print which runs are missing, why, and how to go on."""
    covered = coverage(grid, scheduler_logs)
    gaps = covered[covered["status"] != "ok"]
    lines = [f"{len(covered) - len(gaps)} of {len(covered)} runs of the perturbation task are there."]
    for row in gaps.itertuples():
        run = f"{row.dataset} {row.split} {row.embedding} {row.predictor} seed {row.seed}"
        reason = row.reason if row.reason.startswith(row.status) else f"{row.status}: {row.reason}"
        lines.append(f"  missing: {run}, {row.step} ({reason})")
    lines.append("What is there already, with every gap and its reason: target perturbation_partial_tables.")
    sys.stderr.write("\n".join(lines) + "\n")


def _joined(present: Sequence[dict[str, Any]], file: str, least: list[str]) -> pd.DataFrame:
    import pandas as pd

    parts = []
    for run in present:
        part = read_table(Path(run["folder"], file))
        for place, key in enumerate(RUN):
            part.insert(place, key, run[key])
        parts.append(part)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*RUN, *least])


def ceilings(grid: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The replicate of each split, in the shape of the scores."""
    import pandas as pd

    parts = []
    for run in {run["ceiling"]: run for run in grid}.values():
        if Path(run["ceiling"]).exists():
            part = read_table(run["ceiling"])
            part.insert(0, "seed", -1)
            for key, value in (("predictor", REPLICATE), ("embedding", "none"), ("split", run["split"])):
                part.insert(0, key, value)
            part.insert(0, "dataset", run["dataset"])
            parts.append(part)
    columns = [*RUN, "metric", "targets", "value", "std", "n", "corrected"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def scaled(scores: pd.DataFrame, kinds: dict[str, str]) -> np.ndarray:
    """(score - mean of perturbed) / (replicate - mean of perturbed): 0 is the baseline, 1 the ceiling.

    The ceiling is the corrected one where there is one. Not cut off: worse than the baseline is below 0.
    """
    result = np.full(len(scores), np.nan)
    baseline = scores["predictor"].map(kinds) == "perturbed_mean"
    keys = ["split", "metric", "targets"]
    low = scores[baseline].groupby(keys)["value"].mean()
    ceiling = scores[scores["predictor"] == REPLICATE].set_index(keys)
    for row, key in enumerate(zip(*(scores[name] for name in keys), strict=True)):
        if key not in low.index or key not in ceiling.index or not DIRECTIONS.get(key[1]):
            continue
        high = float(ceiling.loc[key, "corrected"])
        high = ceiling.loc[key, "value"] if np.isnan(high) else high
        span = high - low[key]
        if abs(span) > 1e-12:
            result[row] = (scores["value"].iloc[row] - low[key]) / span
    return result


def tidy(targets: pd.DataFrame) -> pd.DataFrame:
    """A row for each run, target and metric."""
    metrics = [name for name in DIRECTIONS if name in targets]
    kept = [*RUN, "target", "responsive", *[name for name in ("n_cells", "flag") if name in targets]]
    return targets.melt(id_vars=kept, value_vars=metrics, var_name="metric", value_name="value")


def over_seeds(scores: pd.DataFrame, grid: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Mean, spread and range over the seeds; a seed that is missing is counted, never filled in."""
    import pandas as pd

    asked = {tuple(one[0][key] for key in FIT): len(one) for one in _fits(grid)}
    rows = []
    for key, part in scores.groupby([*FIT, "metric", "targets"], sort=False):
        values = part["value"].to_numpy(dtype=float)
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else np.nan
        n_failed = asked.get(key[:4], len(values)) - len(values)
        shape = [values.mean(), spread, spread / np.sqrt(len(values)), values.min(), values.max()]
        rows.append([*key, *shape, part["scaled"].mean(), len(values), n_failed])
    columns = [*FIT, "metric", "targets", "mean", "std", "sem", "min", "max", "scaled", "n_ok", "n_failed"]
    return pd.DataFrame(rows, columns=columns)


def differences(targets: pd.DataFrame, kinds: dict[str, str], n_resamples: int) -> pd.DataFrame:
    """Paired differences to the baselines over the same targets, with a bootstrap interval over targets.

    Values of a target are first averaged over seeds. ``better`` is yes or no where the interval of 95 %
    leaves zero out, else empty.
    """
    import pandas as pd

    columns = [*FIT, "baseline", "metric", "targets", "difference", "low", "high", "n", "better"]
    if targets.empty:
        return pd.DataFrame(columns=columns)
    metrics = [name for name, direction in DIRECTIONS.items() if name in targets and direction]
    mean = targets.groupby([*FIT, "target", "responsive"], sort=False)[metrics].mean().reset_index()
    rows = []
    for (dataset, split), part in mean.groupby(["dataset", "split"], sort=False):
        by_fit = {
            key: one.set_index("target") for key, one in part.groupby(["embedding", "predictor"], sort=False)
        }
        for name in BASELINES:
            base = next((one for (_, predictor), one in by_fit.items() if kinds.get(predictor) == name), None)
            if base is None:
                continue
            for (embedding, predictor), one in by_fit.items():
                if kinds.get(predictor) == name:
                    continue
                for metric in metrics:
                    for which in ("all", "responsive"):
                        common = base if which == "all" else base[base["responsive"]]
                        delta = (one[metric] - common[metric]).dropna().to_numpy(dtype=float)
                        if len(delta):
                            found = _interval(delta, metric, n_resamples)
                            rows.append([dataset, split, embedding, predictor, name, metric, which, *found])
    return pd.DataFrame(rows, columns=columns)


def _interval(delta: np.ndarray, metric: str, n_resamples: int) -> list[Any]:
    rng = np.random.default_rng(20251010)
    means = delta[rng.integers(0, len(delta), (n_resamples, len(delta)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975]) if len(delta) > 1 else (np.nan, np.nan)
    sign = 1 if DIRECTIONS[metric] == "higher" else -1
    better = ""
    if low > 0 or high < 0:
        better = "yes" if sign * delta.mean() > 0 else "no"
    return [float(delta.mean()), float(low), float(high), len(delta), better]


def summarise(seeds: pd.DataFrame, names: dict[str, str], kinds: dict[str, str]) -> pd.DataFrame:
    """One row for each predictor and embedding: the table of a paper, and ``predictor`` as in the config."""
    import pandas as pd

    tables = {
        key: dict(zip(zip(part["metric"], part["targets"], strict=True), part["mean"], strict=True))
        | {"n": int(part["n_ok"].max()), "failed": int(part["n_failed"].max())}
        for key, part in seeds.groupby(["embedding", "predictor"], sort=False)
    }
    base = next((one for (_, name), one in tables.items() if kinds.get(name) == "perturbed_mean"), None)
    rows = []
    for (embedding, predictor), values in tables.items():
        row = {"Predictor": names.get(predictor, predictor), "Embedding": embedding}
        for metric in SUMMARY:
            row[metric] = values.get((metric, "all"), np.nan)
        row["Overall"] = np.nan
        if base is not None and predictor != REPLICATE:
            of = {name: {key: one.get((key, "all"), np.nan) for key in ("DES", "PDS", "MAE")}
                  for name, one in (("own", values), ("base", base))}  # fmt: skip
            row["Overall"] = overall(of["own"], of["base"])["Overall"]
        for metric in SUMMARY:
            row[f"{metric}_responsive"] = values.get((metric, "responsive"), np.nan)
        row["n_seeds"], row["n_failed"] = values["n"], values["failed"]
        row["predictor"] = predictor
        rows.append(row)
    columns = [f"{metric}{end}" for end in ("", "_responsive") for metric in SUMMARY]
    columns.insert(len(SUMMARY), "Overall")
    columns = ["Predictor", "Embedding", *columns, "n_seeds", "n_failed", "predictor"]
    return pd.DataFrame(rows, columns=columns)
