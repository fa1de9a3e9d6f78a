"""A fitted estimator made anew from its result, to embed other cells."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nmfbench.errors import InputError
from nmfbench.factors.consensus_fit import ConsensusPrograms
from nmfbench.factors.stored import StoredFit
from nmfbench.models import MODELS, get_card, get_model


@dataclass(frozen=True)
class Restored:
    """What embeds new cells.

    Attributes
    ----------
    fit : StoredFit
    model : estimator
        Its ``transform`` is that of the fitted one.
    normalisation : dict
        ``target_sum`` and ``log1p`` of what ``transform`` is given.
    gene_factors : (genes,) array or None
        What the normalised values are multiplied with before, where the fit scaled genes.
    """

    fit: StoredFit
    model: Any
    normalisation: dict[str, Any]
    gene_factors: np.ndarray | None = None


def restore(result: str | Path, record: str | Path | None = None) -> Restored:
    """Make the estimator of a result anew.

    Parameters
    ----------
    result : str or Path
        A ``result.h5ad``.
    record : str or Path, optional
        Its ``run.json``; by default the one beside it.

    Raises
    ------
    InputError
        A file is missing or does not say enough (results of earlier versions), or the model cannot embed
        cells that it was not fitted to.
    """
    fit = StoredFit(result)
    record = Path(record) if record is not None else Path(result).with_name("run.json")
    if not record.is_file():
        raise InputError(
            f"{record}: no such file",
            "the run.json of the fit, which holds its parameters and normalisation",
            "nothing",
            "keep result.h5ad and run.json together, or name it (record=...)",
        )
    told = json.loads(record.read_text(encoding="utf-8"))
    if told.get("kind") == "consensus":
        model = ConsensusPrograms(fit.n_factors).restore(np.ascontiguousarray(fit.loadings.T), {}, 0)
        return Restored(fit, model, told["normalisation"])
    if told.get("kind") not in MODELS:
        raise InputError(
            f"{record}: kind",
            f"one of {', '.join(MODELS)}",
            repr(told.get("kind")),
            "name the run.json of a fit",
        )
    if why := get_card(told["kind"]).own_cells_only:
        raise InputError(
            f"{result}: new cells",
            "a model that embeds a cell by its counts",
            why,
            "embed them with another model, such as ae_nmf, base_nmf or pca",
        )
    model_class = get_model(told["kind"])
    accepted = inspect.signature(model_class).parameters
    parameters = {key: value for key, value in told["parameters"].items() if key in accepted}
    if "device" in accepted:
        parameters["device"] = "cpu"
    state = fit.record.get("transform")
    model = model_class(**parameters)
    needs_state = not model.transform_is_embedding and told["kind"] != "base_nmf"
    seed = int(fit.record.get("training_seed", fit.record["seed"]))
    components, factors = np.ascontiguousarray(fit.loadings.T), None
    if "gene_scaling" in fit.uns:  # loadings are written on the scale of the values
        factors = np.asarray(fit.uns["gene_scaling"]["factors"])
        components = components * factors.astype(components.dtype)
    try:
        if needs_state and state is None:
            raise KeyError("transform")
        model = model.restore(components, state or {}, seed)
    except KeyError as error:
        raise InputError(
            f"{result}: uns['nmfbench']['transform']",
            "what the model needs to embed new cells",
            f"no {error}: the fit was made by an earlier version",
            "train it again (snakemake --forcerun train_" + told["kind"] + ")",
        ) from error
    if factors is not None and get_card(told["kind"]).normalises:
        model.gene_factors, factors = factors, None
    return Restored(fit, model, told["normalisation"], factors)
