"""Held-out scores of counts: models with scores by stratum and their nulls, and the others beside."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmfbench.tables.files import read_table

if TYPE_CHECKING:
    import pandas as pd

ENTRIES = "entries"
COLUMNS = (
    *("dataset", "model", "rank", "seed", "split", "source", "stratum"),
    *("n_entries", "value", "se", "predictive", "conditional", "delta", "status", "reason"),
)


def collect_held_out(
    tables: Sequence[Mapping[str, Any]], records: Sequence[Mapping[str, Any]]
) -> pd.DataFrame:
    """One row for each model, kind of split, source and stratum, in nats per entry.

    Parameters
    ----------
    tables : sequence of mapping
        ``file`` (``held_out.tsv``), ``dataset``, ``model``, ``rank`` and ``seed`` of fits that have one.
    records : sequence of mapping
        The same with ``run.json`` of every fit of a model of counts, and ``no_mask``, why it cannot leave
        entries out, or empty. Where it left entries out, its scores are rows of split ``entries``; where it
        set molecules aside, one of split ``molecules`` and stratum ``all``.

    Returns
    -------
    DataFrame
        Columns :data:`COLUMNS`. ``source`` is the model itself (by its name in the config) or a null.
        ``status`` is ``ok``; where some models left entries out, the others have a row without a value,
        ``not asked`` or ``not applicable``, with the reason.
    """
    import pandas as pd

    names = ["dataset", "model", "rank", "seed"]
    found = []
    for asked in tables:
        table = read_table(asked["file"])
        table = table.assign(**{name: asked[name] for name in names})
        table["source"] = table["source"].where(table["source"] != "nb_hierarchical", asked["model"])
        found.append(table)
    told = {tuple(asked[name] for name in names) for asked in tables}
    for asked in records:
        if tuple(asked[name] for name in names) in told:
            continue
        rows = _rows_of(json.loads(Path(asked["file"]).read_text(encoding="utf-8")))
        run = {name: asked[name] for name in names} | {"source": asked["model"]}
        if rows:
            found.append(pd.DataFrame([run | row for row in rows]))
    if not found:
        return pd.DataFrame(columns=list(COLUMNS))
    table = pd.concat([part.reindex(columns=list(COLUMNS)) for part in found], ignore_index=True)
    table["status"], table["reason"] = "ok", ""
    masked = table.loc[table["split"] == ENTRIES, names]
    if masked.empty:
        return table
    scored = set(masked.itertuples(index=False, name=None))
    rest = [
        {name: asked[name] for name in names} | _without_a_score(asked)
        for asked in [*tables, *records]
        if tuple(asked[name] for name in names) not in scored
    ]
    gone = pd.DataFrame(rest, columns=list(COLUMNS)).drop_duplicates(subset=names)
    return pd.concat([table, gone], ignore_index=True) if len(gone) else table


def _rows_of(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What ``run.json`` has of counts that were set aside."""
    rows = [dict(row) for row in record.get("held_out_entries") or []]
    value = record.get("held_out_log_likelihood")
    if value is not None:
        n_entries = record["n_cells"] * record["n_genes"]
        rows.append({"split": "molecules", "stratum": "all", "n_entries": n_entries, "value": value})
    return rows


def _without_a_score(asked: Mapping[str, Any]) -> dict[str, Any]:
    why = asked.get("no_mask", "")
    return {"split": ENTRIES, "source": asked["model"], "stratum": "all"} | {
        "status": "not applicable" if why else "not asked",
        "reason": why or "its mask_fraction is 0: set the one of the other models",
    }
