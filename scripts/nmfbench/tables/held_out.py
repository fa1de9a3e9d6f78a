"""Held-out scores of counts: models with scores by stratum and their nulls, and the others beside."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmfbench.tables.files import read_table

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    *("dataset", "model", "rank", "seed", "split", "source", "stratum"),
    *("n_entries", "value", "se", "predictive", "conditional", "delta"),
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
        The same with ``run.json`` of every fit of a model of counts: where it set molecules aside, its score
        is a row of split ``molecules`` and stratum ``all``.

    Returns
    -------
    DataFrame
        Columns :data:`COLUMNS`. ``source`` is the model itself (by its name in the config) or a null.
    """
    import pandas as pd

    names = ("dataset", "model", "rank", "seed")
    found = []
    for asked in tables:
        table = read_table(asked["file"])
        table = table.assign(**{name: asked[name] for name in names})
        table["source"] = table["source"].where(table["source"] != "nb_hierarchical", asked["model"])
        found.append(table)
    told = {tuple(asked[name] for name in names) for asked in tables}
    for asked in records:
        record = json.loads(Path(asked["file"]).read_text(encoding="utf-8"))
        value = record.get("held_out_log_likelihood")
        if value is None or tuple(asked[name] for name in names) in told:
            continue
        row = {name: asked[name] for name in names} | {"split": "molecules", "source": asked["model"]}
        row |= {"stratum": "all", "n_entries": record["n_cells"] * record["n_genes"], "value": value}
        found.append(pd.DataFrame([row]))
    if not found:
        return pd.DataFrame(columns=list(COLUMNS))
    return pd.concat([table.reindex(columns=list(COLUMNS)) for table in found], ignore_index=True)
