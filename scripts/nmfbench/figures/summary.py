"""From the tidy scores table to one row per label, metric and model, gaps included."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from nmfbench.figures.style import order_models, require_columns


def at_rank(scores: pd.DataFrame, rank: int | None) -> pd.DataFrame:
    """Rows of scores.tsv at one rank (all for None), value NaN wherever status is not ok."""
    require_columns(scores, ["model", "rank", "seed", "label", "metric", "value"], "scores.tsv")
    rows = scores if rank is None else scores[scores["rank"].astype(int) == int(rank)]
    rows = rows.assign(
        model=rows["model"].astype(str),
        label=rows["label"].astype(str),
        metric=rows["metric"].astype(str),
        value=pd.to_numeric(rows["value"], errors="coerce"),
        std=pd.to_numeric(rows["std"], errors="coerce") if "std" in rows else float("nan"),
    )
    if "status" in rows:
        rows.loc[rows["status"].astype(str) != "ok", ["value", "std"]] = float("nan")
    return rows


def uses_label(value: object, label: str) -> bool:
    """Whether the `uses_labels` entry of a row says that training saw this label."""
    text = str(value).strip()
    if text.lower() in {"", "false", "0", "0.0", "nan", "none", "no", "[]"}:
        return False
    if text.lower() in {"true", "1", "1.0", "yes"}:
        return True
    return label in {part.strip(" '\"") for part in text.strip("[]()").replace(";", ",").split(",")}


def summarise(
    scores: pd.DataFrame, rank: int | None, display_names: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Summarise training seeds: one row per label x metric x model of the grid.

    Parameters
    ----------
    scores : DataFrame
        scores.tsv.
    rank : int or None
        The rank to keep.
    display_names : mapping of str to str, optional
        Models of the config; one that the table lacks still gets its rows.

    Returns
    -------
    DataFrame
        label, metric, model, value (mean over training seeds), spread (standard
        deviation over training seeds where there are several, else over Leiden
        seeds or fold rows), n_present, n_expected (training seeds), gap (the
        word for a value that is not there) and used (training saw the label).
        value is NaN where every seed is missing.
    """
    rows = at_rank(scores, rank)
    models = order_models(rows["model"], display_names)
    summary = []
    for label in dict.fromkeys(rows["label"]):
        of_label = rows[rows["label"] == label]
        for metric in dict.fromkeys(rows["metric"]):
            of_metric = of_label[of_label["metric"] == metric]
            for model in models:
                mine = of_metric[of_metric["model"] == model]
                present = mine[mine["value"].notna()]
                several = len(present) > 1
                summary.append(
                    {
                        "label": label,
                        "metric": metric,
                        "model": model,
                        "value": present["value"].mean(),
                        "spread": present["value"].std(ddof=1) if several else present["std"].mean(),
                        "n_present": len(present),
                        "n_expected": max(len(mine), 1),
                        "gap": gap_word(mine),
                        "used": any(uses_label(value, label) for value in mine.get("uses_labels", ())),
                    }
                )
    columns = ["label", "metric", "model", "value", "spread", "n_present", "n_expected", "gap", "used"]
    return pd.DataFrame(summary, columns=columns)


def gap_word(rows: pd.DataFrame) -> str:
    """What a figure calls the lack of a score: it failed, or has no meaning for these data."""
    said = set(rows["status"].astype(str)) if "status" in rows else set()
    return "not applicable" if said == {"not applicable"} else "missing"
