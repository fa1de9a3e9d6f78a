"""``trace.nc`` and ``posterior_summary.tsv``: the posterior for ArviZ, and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nmfbench.models.nb_hierarchical.netcdf import whole_netcdf
from nmfbench.models.nb_hierarchical.posterior import HDI, Posterior

if TYPE_CHECKING:
    import pandas as pd

SUMMARY_COLUMNS = ("parameter", "kind", "name", "mean", "sd", "hdi_3%", "hdi_97%")


def write_trace(
    path: str | Path,
    posterior: Posterior,
    *,
    genes: Sequence[str],
    cells: Sequence[str],
    effects: Sequence[str],
    history: Sequence[Mapping[str, float]],
    draws: int,
    draws_mb: float,
    seed: int,
    attributes: Mapping[str, Any],
) -> None:
    """Write posterior draws, a block of draws at a time.

    Parameters
    ----------
    path : str or Path
    posterior : Posterior
    genes, cells, effects : sequence of str
        Coordinates.
    history : sequence of mapping
        Rows of the fit: ``sample_stats`` has their ELBO.
    draws : int
        How many; 0 writes means and sds alone.
    draws_mb : float
        Draws of the cells are left out where all draws take more megabytes than this; the attribute
        ``cells`` says so, and their means and sds are there in any case.
    seed : int
    attributes : mapping
        Of the file.
    """
    family = posterior.family
    found = posterior.effects()
    n_effects = len(effects)
    with_cells = 4e-6 * draws * (family.n_genes + family.n_cells) <= draws_mb
    with whole_netcdf(path) as file:
        coordinates: dict[str, Any] = {"chain": np.arange(1), "draw": np.arange(draws)}
        coordinates |= {"gene": genes, "cell": cells}
        if n_effects:
            coordinates["effect"] = effects
        names = [name.removeprefix("log_") for name in family.globals]
        sides = {"gene_effect": ("gene",), "gene_total": ("gene",)}
        if not family.shared:
            sides["log_alpha"] = ("gene",)
        if n_effects:
            sides["covariate_effect"] = ("effect", "gene")
        if with_cells:
            sides |= {"cell_effect": ("cell",), "cell_centred": ("cell",)}
        if draws:
            file.group("posterior", coordinates)
            variables = {
                name: file.variable("posterior", name, ("chain", "draw"), np.float64) for name in names
            }
            for name, over in sides.items():
                variables[name] = file.variable("posterior", name, ("chain", "draw", *over))
            _fill(variables, posterior, draws, seed, names)
        summary = {key: value for key, value in coordinates.items() if key not in ("chain", "draw")}
        file.group("variational", summary)
        for name, over, (mean, sd) in (
            ("gene_effect", ("gene",), found.gene),
            ("gene_total", ("gene",), found.gene_total),
            ("cell_effect", ("cell",), found.cell),
            ("cell_centred", ("cell",), found.cell_centred),
            *((("log_alpha", ("gene",), found.log_alpha),) if not family.shared else ()),
            *((("covariate_effect", ("effect", "gene"), found.effect),) if n_effects else ()),
        ):
            file.variable("variational", f"{name}_mean", over, np.float64)[...] = mean
            file.variable("variational", f"{name}_sd", over, np.float64)[...] = sd
        file.group("sample_stats", {"eval": np.array([int(row["step"]) for row in history], dtype=np.int64)})
        elbo = file.variable("sample_stats", "elbo", ("eval",), np.float64)
        elbo[...] = [row["elbo"] for row in history]
        kept = "draws" if with_cells and draws else f"mean and sd only: draws take more than {draws_mb:g} MB"
        file.attributes({"inference_library": "nmfbench", "cells": kept, **attributes})


def _fill(variables: dict, posterior: Posterior, draws: int, seed: int, names: Sequence[str]) -> None:
    start = 0
    for block in posterior.draws(draws, seed):
        stop = start + len(block["gene"])
        shift = block["cell"].mean(1, keepdims=True)
        values = {name: block[name] for name in names}
        values |= {"gene_effect": block["gene"], "gene_total": block["gene"] + shift}
        values |= {"cell_effect": block["cell"], "cell_centred": block["cell"] - shift}
        values |= {"log_alpha": block["log_alpha"], "covariate_effect": block["effect"]}
        for name, variable in variables.items():
            variable[0, start:stop] = values[name]
        start = stop


def summary_table(posterior: Posterior, genes: Sequence[str], effects: Sequence[str]) -> pd.DataFrame:
    """Every global and gene parameter, with columns :data:`SUMMARY_COLUMNS`.

    Intervals are those of highest posterior density that hold 94 %. There is neither an effective sample size
    nor an R-hat: draws of a fitted posterior are independent by construction.
    """
    import pandas as pd

    found = posterior.effects()
    rows = [
        {"parameter": name, "kind": "global", "name": ""}
        | dict(zip(SUMMARY_COLUMNS[3:], values, strict=True))
        for name, values in posterior.globals().items()
    ]
    tables = [pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))]
    sides = [("gene_effect", genes, found.gene), ("gene_total", genes, found.gene_total)]
    if not posterior.family.shared:
        sides.append(("log_alpha", genes, found.log_alpha))
    for k, effect in enumerate(effects):
        sides.append((f"covariate_effect[{effect}]", genes, (found.effect[0][k], found.effect[1][k])))
    for parameter, names, (mean, sd) in sides:
        low, high = mean - HDI * sd, mean + HDI * sd
        if parameter in posterior.refined:
            low, high = posterior.refined[parameter].intervals()
        tables.append(
            pd.DataFrame(
                {"parameter": parameter, "kind": "gene", "name": list(names), "mean": mean, "sd": sd}
                | {"hdi_3%": low, "hdi_97%": high}
            )
        )
    return pd.concat(tables, ignore_index=True)
