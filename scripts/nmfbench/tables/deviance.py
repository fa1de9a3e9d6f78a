"""Shares of explained deviance of all fits, with the reason where a model has none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmfbench.tables.failures import NOT_APPLICABLE
from nmfbench.tables.files import read_table
from nmfbench.tables.runs import RUN_COLUMNS, try_read

if TYPE_CHECKING:
    import pandas as pd

DEVIANCE_COLUMNS = (
    *(*RUN_COLUMNS, "deviance_explained", "bits_per_molecule", "deviance", "null_deviance", "molecules"),
    *("fraction", "seed_of_draw", "status", "reason"),
)


def collect_deviance(fits: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row for each fit.

    Parameters
    ----------
    fits : sequence of mapping
        ``file``, ``dataset``, ``model``, ``rank`` and ``seed`` of every fit.

    Returns
    -------
    DataFrame
        Columns :data:`DEVIANCE_COLUMNS`; ``status`` is ``ok``, ``not applicable`` or ``missing``.
    """
    import pandas as pd

    rows = []
    for fit in fits:
        table, problem = try_read(Path(fit["file"]), read_table)
        row: dict[str, Any] = {name: fit[name] for name in RUN_COLUMNS}
        if table is not None:
            found = table.iloc[0].to_dict()
            found["seed_of_draw"] = found.pop("seed")
            rows.append(found | row | {"status": "ok", "reason": ""})
            continue
        mark = f"{NOT_APPLICABLE}: "
        known = problem is not None and problem.startswith(mark)
        row |= {"status": NOT_APPLICABLE if known else "missing"}
        rows.append(row | {"reason": problem.removeprefix(mark) if known else problem or "no result"})
    table = pd.DataFrame(rows, columns=list(DEVIANCE_COLUMNS))
    return table.astype({"molecules": "Int64", "seed_of_draw": "Int64"})  # whole beside rows that have none
