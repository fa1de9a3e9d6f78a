"""What a fit leaves behind: the results-only .h5ad, its history, how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from nmfbench.data.filtered import FilteredCounts


def write_history(model: Any, path: str, compiled: float) -> None:
    """A row for each row of the fit; ``compile_seconds`` is the same in all, as it was before all."""
    import pandas as pd

    table = pd.DataFrame(model.history_).assign(compile_seconds=compiled)
    table.to_csv(path, sep="\t", index=False)


def write_fit(
    model: Any,
    data: FilteredCounts,
    in_order: Any,
    *,
    result: str,
    normalisation: Mapping[str, Any],
    record: Mapping[str, Any],
    scaling: tuple[str, np.ndarray] | None = None,
) -> str:
    """The results-only .h5ad; in blocks of cells where the model embeds in blocks."""
    from nmfbench.results import write_result, write_result_blocks

    published = {"target_sum": normalisation["target_sum"], "libsize_log1p": normalisation["log1p"]}
    varm, uns = model.loadings(), model.unstructured(**published)
    if scaling is not None:  # X diag(f) ≈ H W: the values themselves are H W / f
        name, factors = scaling
        varm = {key: W / factors[:, None].astype(W.dtype) for key, W in varm.items()}
        uns = {**uns, "gene_scaling": {"kind": name, "factors": factors}}
    learnt = {"varm": varm, "uns": uns, "record": record}
    if hasattr(model, "fit_rows"):
        blocks = model.embedding_blocks(in_order)
        return write_result_blocks(result, filtered=data.path, blocks=blocks, **learnt)
    obs, var = data.obs, data.var
    if getattr(model, "cells_", None) is not None:
        obs = obs.iloc[model.cells_].copy()
        for column in obs.select_dtypes("category"):
            obs[column] = obs[column].cat.remove_unused_categories()
    if hasattr(model, "cell_columns"):
        obs, var = obs.assign(**model.cell_columns()), var.assign(**model.gene_columns())
    return write_result(result, obs=obs, var=var, obsm=model.embeddings(), **learnt)


def told_of_missing(data: FilteredCounts, cells: np.ndarray) -> dict[str, Any]:
    """Entries of ``run.json`` for an embedding of some of the cells: how many, and what it has none of."""
    import numpy as np

    missing = np.setdiff1d(np.arange(data.n_cells), cells)
    gone = {}
    for key, label in (("donors", "donor_id"), ("cell_types", "cell_type")):
        values = np.asarray(data.label(label)).astype(str)
        gone[key] = sorted(set(values) - set(values[cells]))
    said = f"scored on {len(cells):,} of {data.n_cells:,} cells, those that its file has"
    for key, names in gone.items():
        if names:
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            said += f"; {key.replace('_', ' ')} without a cell: {shown}"
    first = [str(name) for name in data.obs.index[missing[:5]]]
    return {
        "cells_of_dataset": data.n_cells,
        "missing_cells": {"n": len(missing), "first": first, **gone},
        "warnings": [said],
    }


def outcome(model: Any) -> dict[str, Any]:
    """How the fit ended, for ``run.json``."""
    choice = getattr(model, "solver_choice_", None)  # the autoencoders have one
    return {
        "solver": None if choice is None else choice.record(),
        **({} if choice is None else {"training": model.training_}),
        "device": model.device_,
        "gpu_peak_mb": _gpu_peak_mb(model.device_),
        "epochs": int(model.n_iter_),
        "iterations": int(model.iterations_),
        "unit": model.unit_,
        "stop_reason": model.stop_reason_,
        "converged": bool(model.converged_),
        "objective": float(model.objective_),
        "relative_error": float(model.relative_error_),
        "external": getattr(model, "source_", None),
        "held_out_log_likelihood": getattr(model, "held_out_log_likelihood_", None),
        **(model.outcome() if hasattr(model, "outcome") else {}),
    }


def _gpu_peak_mb(device: str) -> float | None:
    """Largest GPU memory that torch held, in megabytes; None where there was no GPU."""
    if not device.startswith("cuda"):
        return None
    import torch

    return torch.cuda.max_memory_allocated(device) / 1e6
