"""Fit the NB-GLM to one fold: choose penalties on training targets that are held out, then fit all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from nmfbench.perturbation.fold import Fold
from nmfbench.perturbation.nb_glm.bilinear import Problem
from nmfbench.perturbation.nb_glm.rows import concise_rows

PENALTIES = (np.inf, 1e5, 1e4, 1e3, 1e2, 1e1, 1.0)  # strongest first: each starts from the one before
SHRINKAGES = (0.0, 0.25, 0.5, 0.75, 1.0)
N_INNER = 5
MANY_TARGETS = 40  # from which one inner fold says enough


def fit_bilinear_fold(
    fold: Fold, settings: dict[str, Any], log: Callable[[str], None] = lambda text: None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Fit the convex model.

    Returns
    -------
    parameters : dict
        See :func:`nmfbench.perturbation.nb_glm.parameters.predict_fold`.
    history : list of dict
        epoch, objective.
    """
    penalty, shrinkage = settings["penalty_K"], settings["shrinkage"]
    if "auto" in (penalty, shrinkage):
        penalty, shrinkage = choose(fold, settings)
        log(f"fold {fold.number}: penalty_K {penalty:g}, shrinkage {shrinkage:g} chosen on held-out targets")
    problem, vectors = _problem(fold, settings)
    fitted, _ = problem.fit(penalty)
    genes, asked, missing = vectors
    parameters = {
        "kind": "bilinear",
        **_asked_of(fold, genes, asked, missing),
        "bias": fitted.bias,
        "K": fitted.K,
        "centre": fitted.centre,
        "on_target": fitted.on_target,
        "cycle": fitted.cycle,
        "penalty_K": penalty,
        "shrinkage": shrinkage,
        "specific": 1.0,
    }
    history = [{"epoch": step, "objective": value} for step, value in enumerate(fitted.objective)]
    return parameters, history


def _asked_of(fold: Fold, genes: np.ndarray, asked: np.ndarray, missing: np.ndarray) -> dict[str, Any]:
    """What a fitted fold keeps of its targets, whichever model it is of.

    Parameters
    ----------
    genes, asked : arrays of shape (genes, width) and (targets asked, width)
    missing : bool array of shape (targets asked,)
        Whether the embedding lacks the target.
    """
    kept = {name: row for name, row, alone in zip(fold.asked, asked, missing, strict=True) if not alone}
    known = {} if fold.embedding.components else fold.embedding.vectors
    return {
        "fold": fold.number,
        "asked": list(fold.asked),
        "G": genes,
        "vectors": {**known, **kept},
        "target_width": asked.shape[1],
        "pair_separator": fold.embedding.pair_separator,
    }


def _problem(
    fold: Fold, settings: dict[str, Any]
) -> tuple[Problem, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    genes, trained, asked, missing_trained, missing = fold.vectors()
    own = fold.gene_of(fold.trained_names) if settings["on_target"] else [[] for _ in fold.trained_names]
    problem = Problem(
        concise_rows(fold, settings["use_cycle"]),
        genes,
        trained,
        missing_trained,
        own,
        np.log(fold.control.mean),
        fold.control.theta,
        settings["use_cycle"],
    )
    return problem, (genes, asked, missing)


def choose(fold: Fold, settings: dict[str, Any]) -> tuple[float, float]:
    """The penalty and the shrinkage with the least error on parts of the training data held out.

    Targets that the embedding knows from elsewhere are held out whole. Vectors made from the responses
    themselves say nothing of unseen targets; there, cells are halved instead.
    """
    penalties = PENALTIES if settings["penalty_K"] == "auto" else (settings["penalty_K"],)
    shrinkages = SHRINKAGES if settings["shrinkage"] == "auto" else (settings["shrinkage"],)
    if fold.embedding.components:
        shrinkages = (1.0,) if settings["shrinkage"] == "auto" else shrinkages
    errors = np.zeros((len(penalties), len(shrinkages)))
    for inner, truth in inner_folds(fold):
        problem, (genes, asked, missing) = _problem(inner, settings)
        own = inner.gene_of(inner.asked) if settings["on_target"] else [[] for _ in inner.asked]
        start = None
        for row, penalty in enumerate(penalties):
            fitted, parts = problem.fit(penalty, start, max_iter=200, tol=1e-6)
            start = parts
            for column, factor in enumerate(shrinkages):
                change = fitted.change(genes, asked, missing, own, factor)
                errors[row, column] += held_out_error(inner, truth, change, settings["criterion"])
    best = np.unravel_index(np.argmin(errors), errors.shape)
    return float(penalties[best[0]]), float(shrinkages[best[1]])


def inner_folds(fold: Fold) -> Iterator[tuple[Fold, np.ndarray]]:
    """Parts of the training data of a fold, and masks of the groups that are held out of each."""
    sums = fold.sums
    if fold.embedding.components:
        for half in (0, 1):
            yield fold.part(sums.half == half, fold.trained_names), fold.mask & (sums.half != half)
        return
    targets = fold.trained.target
    order = np.random.default_rng(20251010).permutation(len(targets))
    n = min(N_INNER, len(targets))
    for number in range(1 if len(targets) >= MANY_TARGETS else n):
        held_out = targets[np.sort(order[number::n])]
        names = [str(sums.targets[target]) for target in held_out]
        inside = np.isin(sums.target, held_out)
        yield fold.part(~inside, names), fold.mask & inside


def held_out_error(fold: Fold, truth: np.ndarray, change: np.ndarray, criterion: str) -> float:
    """Error of predicted log fold changes on held-out groups, by target, added up."""
    sums = fold.sums.by_target(truth)
    place = {str(fold.sums.targets[target]): row for row, target in enumerate(sums.target)}
    rows = [place[name] for name in fold.asked]
    if criterion == "mae":
        prediction = fold.background.from_rates(fold.asked, np.log(fold.control.mean) + change)
        return float(np.abs(prediction.profile - sums.profiles[rows]).mean(axis=1).sum())
    log_mu = np.log(fold.control.mean) + change + np.log(sums.size[rows])[:, None]
    r = fold.control.theta * (sums.size[rows] ** 2 / sums.size_squared[rows])[:, None]
    y = sums.counts[rows]
    # each target weighs as much as any other, whatever its number of cells
    loss = (y + r) * np.log(np.exp(log_mu) + r) - y * log_mu
    return float((loss.mean(axis=1) / sums.n[rows]).sum())


def fit_network_fold(
    fold: Fold,
    settings: dict[str, Any],
    *,
    seed: int,
    device: str,
    cells: Callable | None,
    checkpoint: Any,
    stop: Callable[[], bool],
    log: Callable[[str], None],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Fit the general model by AdamW; returns as :func:`fit_bilinear_fold` does."""
    import torch

    from nmfbench.fitting.loop import Run
    from nmfbench.fitting.loop import fit as fit_engine
    from nmfbench.job import Interrupted
    from nmfbench.perturbation.nb_glm.batches import batches_of, validation_of
    from nmfbench.perturbation.nb_glm.descent import Descent, Targets
    from nmfbench.perturbation.nb_glm.network import LowRankNB, check_shapes

    genes, trained, asked, missing_trained, missing = fold.vectors()
    check_shapes(genes.shape[1], trained.shape[1])
    where = torch.device(device)
    torch.manual_seed(int(np.random.SeedSequence([seed, fold.number + 1]).generate_state(1)[0]))

    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(np.ascontiguousarray(values), dtype=torch.float32, device=where)

    model = LowRankNB(tensor(genes), tensor(np.log(fold.control.mean)), trained.shape[1], settings).to(where)
    P, no_vector = tensor(trained), torch.as_tensor(missing_trained, device=where)
    own = fold.gene_of(fold.trained_names)
    theta = tensor(fold.control.theta)
    held_out = validation_targets(len(trained), settings["validation_fraction"])
    batches = batches_of(fold, settings, where, cells, held_out)
    targets = Targets(P, no_vector, own)
    validate = validation_of(fold, settings, where, P, no_vector, own, theta, held_out)

    def build(_: bool) -> Descent:
        seeds = [seed, fold.number + 1]
        return Descent(model, targets, theta, batches, settings, seed=seeds, validate=validate)

    outcome = fit_engine(
        build,
        name=f"NB-GLM, fold {fold.number}",
        n_cells=batches.n_rows,
        run=Run(should_stop=stop, progress=False),
        checkpoint=checkpoint,
        stored=None if checkpoint is None else checkpoint.load(),
    )
    history, epochs = outcome.history, outcome.engine.clock
    if outcome.stop_reason == "interrupted":
        raise Interrupted(f"after {epochs} of {settings['max_iter']} epochs")
    log(f"fold {fold.number}: {epochs} epochs, objective {history[-1]['objective']:.6g}")
    at_bound = share_at_bound(model, P, no_vector)
    if at_bound > 0.5:
        log(
            f"fold {fold.number}: {at_bound:.0%} of the changes lie at the bound of tanh, where the fit "
            "cannot move: its rates mean little; raise max_iter, lower learning_rate or take another loss"
        )
    parameters = {
        "kind": "network",
        **_asked_of(fold, genes, asked, missing),
        "state": {name: value.cpu().numpy() for name, value in model.state_dict().items()},
        "shrinkage": 1.0 if settings["shrinkage"] == "auto" else settings["shrinkage"],
        "at_bound": at_bound,
    }
    return parameters, history


def share_at_bound(model: Any, P: Any, missing: Any) -> float:
    """Share of the training targets' changes that lie within 1 % of the bound of tanh; 0 without one."""
    import torch

    if model.alpha is None:
        return 0.0
    model.eval()  # without dropout
    with torch.no_grad():
        return float((torch.tanh(model.raw(P, missing)).abs() > 0.99).double().mean())


def validation_targets(n_targets: int, fraction: float) -> np.ndarray:
    """Places of the training targets that decide when to stop; none for a fraction of 0."""
    n = round(fraction * n_targets)
    if fraction > 0:
        n = max(n, 1)
    if n_targets - n < 2:
        n = 0
    return np.sort(np.random.default_rng(20251010).permutation(n_targets)[:n])
