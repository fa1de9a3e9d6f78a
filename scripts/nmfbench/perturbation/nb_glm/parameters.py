"""Parameters of a fitted fold as plain arrays: what a checkpoint holds and predictions are made from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nmfbench.perturbation.background import Background, Prediction
from nmfbench.perturbation.nb_glm.bilinear import Bilinear
from nmfbench.perturbation.predictors.base import SHARED


def predict_fold(
    parameters: dict[str, Any], settings: dict[str, Any], background: Background, names: Sequence[str]
) -> Prediction:
    """Predict targets from the parameters of a fold.

    Parameters
    ----------
    parameters : dict
        ``kind`` (bilinear or network), ``G``, ``vectors`` (name to vector), ``pair_separator``,
        ``shrinkage`` and the parameters.
    settings : dict
    background : Background
    names : sequence of str
        A target without a vector has the shared response, and is flagged.
    """
    vectors, missing = vectors_of(parameters, names)
    own = own_genes(background.genes, names, parameters["pair_separator"])
    cycle = None
    if parameters["kind"] == "bilinear":
        fitted = Bilinear(
            **{name: parameters[name] for name in ("bias", "K", "centre", "on_target", "cycle")}, objective=[]
        )
        own = own if settings["on_target"] else [[] for _ in names]
        options = {"shrinkage": parameters["shrinkage"], "specific": parameters["specific"]}
        change = fitted.change(parameters["G"], vectors, missing, own, **options)
        cycle = fitted.cycle if settings["use_cycle"] else None
    else:
        change, cycle = _network_change(parameters, settings, background, vectors, missing, own)
    log_rate = np.log(background.control.mean) + change
    flags = [SHARED if alone else "" for alone in missing]
    return background.from_rates(names, log_rate, flags, cycle)


def vectors_of(parameters: dict[str, Any], names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of targets, and a mask of those without one."""
    from nmfbench.perturbation.embeddings import Embedding

    embedding = Embedding(parameters["G"], parameters["vectors"], pair_separator=parameters["pair_separator"])
    if not parameters["vectors"]:
        return np.zeros((len(names), int(parameters["target_width"]))), np.ones(len(names), dtype=bool)
    return embedding.of(names)


def own_genes(genes: np.ndarray, names: Sequence[str], separator: str) -> list[list[int]]:
    """Numbers of the measured genes that targets name."""
    place = {gene: number for number, gene in enumerate(genes)}
    return [
        [place[part] for part in ([name] if name in place else str(name).split(separator)) if part in place]
        for name in names
    ]


def _network_change(parameters, settings, background, vectors, missing, own):
    import torch

    from nmfbench.perturbation.nb_glm.descent import own_pairs
    from nmfbench.perturbation.nb_glm.network import LowRankNB

    G = torch.as_tensor(parameters["G"], dtype=torch.float32)
    log_control = torch.as_tensor(np.log(background.control.mean), dtype=torch.float32)
    model = LowRankNB(G, log_control, vectors.shape[1], settings)
    model.load_state_dict({name: torch.as_tensor(value) for name, value in parameters["state"].items()})
    model.eval()
    with torch.no_grad():
        P = torch.as_tensor(vectors, dtype=torch.float32)
        raw = model.raw(P, torch.as_tensor(missing))
        change = model.change(raw, own_pairs(own, torch.arange(len(vectors))), None)
    cycle = None if model.cycle is None else model.cycle.detach().numpy().astype(np.float64)
    return parameters["shrinkage"] * change.numpy().astype(np.float64), cycle
