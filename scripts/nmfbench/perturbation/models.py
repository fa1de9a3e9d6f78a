"""Model files: what predictions are made from, without the training data."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nmfbench.errors import InputError
from nmfbench.perturbation.background import Background, Prediction
from nmfbench.perturbation.fold import Fold

FORMAT = "nmfbench-nb-glm-1"
PUBLISHED = frozenset({"state_dict", "mu_control", "theta_vec", "gene_names", "pert_names", "cfg"})
"""Keys by which a checkpoint of the published code is known."""


def save_predictions(
    path: str | Path, background: Background, folds: Sequence[Fold], predictions: Sequence[Prediction]
) -> None:
    """Write the model of a baseline: what it predicts in each fold."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.part.npz")
    np.savez(
        temporary,
        names=np.array([name for part in predictions for name in part.names], dtype=str),
        fold=np.repeat([fold.number for fold in folds], [len(part.names) for part in predictions]),
        log_rate=np.concatenate([part.log_rate for part in predictions]),
        predicted_profile=np.concatenate([part.profile for part in predictions]),
        flags=np.array([flag for part in predictions for flag in part.flags], dtype=str),
        **background.arrays(),
    )
    os.replace(temporary, path)


def save_checkpoint(
    path: str | Path,
    background: Background,
    predictor: Any,
    predictions: Sequence[Prediction],
    fingerprint: str,
) -> None:
    """Write ``model.pt``: the parameters of each fold, with all that drawing cells needs.

    The keys of the published checkpoint are there too, from the first fold: ``state_dict``, ``G``, ``P``,
    ``mu_control``, ``theta_vec``, ``use_cycle``, ``gene_names``, ``pert_names``, ``cfg``.
    """
    import torch

    from nmfbench.job import versions

    first = predictor.folds[0]
    parameters = {key: value for key, value in first.items() if isinstance(value, np.ndarray)}
    state = first.get("state", parameters)
    path = Path(path)
    temporary = path.with_name(f".{path.name}.part")
    torch.save(
        _tensors(
            {
                "format": FORMAT,
                "cfg": predictor.settings,
                "folds": predictor.folds,
                "background": background.arrays(),
                "state_dict": state,
                "G": first["G"],
                "P": np.array(list(first["vectors"].values())).reshape(-1, first["target_width"]),
                "mu_control": background.control.mean,
                "theta_vec": background.control.theta,
                "use_cycle": predictor.settings["use_cycle"],
                "gene_names": background.genes.astype(str).tolist(),
                "pert_names": list(first["vectors"]),
                "data_fingerprint": fingerprint,
                "versions": versions(),
            }
        ),
        temporary,
    )
    os.replace(temporary, path)


def read_model(
    path: str | Path, genes: Sequence[str] | None = None, names: Sequence[str] | None = None
) -> tuple[Background, Prediction]:
    """Predict from a model file.

    Parameters
    ----------
    path : path
        ``model.npz`` or ``model.pt``.
    genes : sequence of str, optional
        Genes of the screen; those of the model must be the same, in the same order.
    names : sequence of str, optional
        Targets to predict; those that were held out when it was fitted by default.

    Raises
    ------
    InputError
        It is no model of ours, or one of other genes or targets.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}", "a model file", "no such file", "mend predictors.<name>.checkpoint")
    background, prediction = _from_npz(path) if path.suffix == ".npz" else _from_pt(path, names)
    if genes is not None and list(background.genes) != list(genes):
        differing = sorted(set(genes) ^ set(background.genes))
        got = (
            f"{len(differing)} others, such as {differing[0]!r}" if differing else "the same in another order"
        )
        raise InputError(
            f"{path}", f"a model of the {len(genes)} genes of this screen", got, "fit a model to this screen"
        )
    if names is None:
        return background, prediction
    absent = sorted(set(names) - set(prediction.names))
    if absent:
        raise InputError(
            f"{path}",
            "predictions of all targets asked for",
            f"none of {', '.join(absent[:5])} ({len(absent)})",
            "fit the predictor to this split",
        )
    return background, prediction.of(names)


def _from_npz(path: Path) -> tuple[Background, Prediction]:
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    found = Prediction(
        arrays["names"].astype(str).tolist(),
        arrays["log_rate"],
        arrays["predicted_profile"],
        arrays["flags"].astype(str).tolist(),
    )
    return Background.from_arrays(arrays), found


def _from_pt(path: Path, names: Sequence[str] | None) -> tuple[Background, Prediction]:
    import pickle
    import zipfile

    import torch

    from nmfbench.perturbation.nb_glm.parameters import predict_fold

    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        if not zipfile.is_zipfile(path):
            got = "no file of torch"
            raise InputError(f"{path}", "a model.pt of this workflow", got, "mend the path") from None
        # it holds objects, not only tensors and texts; to read those is to run what somebody wrote
        raise _of_another_program(path, "a checkpoint of another program, with pickled objects") from None
    except (RuntimeError, EOFError, OSError) as error:
        got = str(error).partition("\n")[0][:200]
        raise InputError(f"{path}", "a model.pt of this workflow", got, "fit it again") from None
    if not isinstance(stored, dict) or stored.get("format") != FORMAT:
        got = "a checkpoint of another program"
        if isinstance(stored, dict) and set(stored) >= PUBLISHED:
            sizes = (len(stored["gene_names"]), len(stored["pert_names"]))
            got = f"a checkpoint of the published code, of {sizes[0]} genes and {sizes[1]} perturbations"
        raise _of_another_program(path, got)
    stored = _arrays(stored)
    background, settings = Background.from_arrays(stored["background"]), stored["cfg"]
    parts = []
    for fold, asked in _folds_for(stored["folds"], names):
        parts.append(predict_fold(fold, settings, background, asked))
    if not parts:
        return background, Prediction([], np.zeros((0, len(background.genes))), np.zeros((0, 0)), [])
    return background, Prediction(
        [name for part in parts for name in part.names],
        np.concatenate([part.log_rate for part in parts]),
        np.concatenate([part.profile for part in parts]),
        [flag for part in parts for flag in part.flags],
        None if parts[0].cycle is None else np.mean([part.cycle for part in parts], axis=0),
    )


def _of_another_program(path: Path, got: str) -> InputError:
    """A checkpoint that cells cannot be drawn from, and the two ways to have it in the comparison."""
    return InputError(
        f"{path}",
        f"a model.pt of this workflow ({FORMAT})",
        f"{got}: it lacks the depths of the control cells, and its weights are those of other layers",
        "draw the cells with that program and score them by a predictor {kind: predictions_file, path: "
        "pred.h5ad}; or fit the model here by {kind: nb_glm, preset: published}",
    )


def _folds_for(folds: list[dict[str, Any]], names: Sequence[str] | None):
    """Which fold predicts which targets: the one that they were held out of, else the first."""
    if names is None:
        return [(fold, fold["asked"]) for fold in folds]
    home = {name: number for number, fold in enumerate(folds) for name in fold["asked"]}
    chosen: dict[int, list[str]] = {}
    for name in names:
        chosen.setdefault(home.get(name, 0), []).append(name)
    return [(folds[number], asked) for number, asked in sorted(chosen.items())]


def _tensors(value: Any) -> Any:
    """Arrays as tensors and texts as lists, so that the file can be read without running code."""
    import torch

    if isinstance(value, dict):
        return {str(key): _tensors(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_tensors(item) for item in value]
    if isinstance(value, np.ndarray):
        return value.tolist() if value.dtype.kind in "UO" else torch.from_numpy(np.array(value, order="C"))
    return value.item() if isinstance(value, np.generic) else value


def _arrays(value: Any) -> Any:
    import torch

    if isinstance(value, dict):
        return {key: _arrays(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_arrays(item) for item in value]
    return value.numpy() if isinstance(value, torch.Tensor) else value
