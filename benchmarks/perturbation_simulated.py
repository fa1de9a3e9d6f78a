"""The NB-GLM against the bilinear ridge on a simulated screen with a bilinear truth: 45 targets seen, 15 not.

    python benchmarks/perturbation_simulated.py [--seeds 1 2 3]

Prints, for each seed, the scores of what is known of the unseen targets' profiles, and the seconds of a fit.
The vectors of the genes are given, as the true ones are known; scores are those of the house scorer.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from nmfbench.config.perturbation import SimulatedScreen
from nmfbench.perturbation.background import Background
from nmfbench.perturbation.control import control_statistics
from nmfbench.perturbation.embeddings import Embedding
from nmfbench.perturbation.fold import Fold
from nmfbench.perturbation.predictors import predictor_of, settings_of
from nmfbench.perturbation.scoring import metrics
from nmfbench.perturbation.simulate import CONTROL, simulate
from nmfbench.perturbation.sums import Sums

DESIGN = {
    "n_genes": 400,
    "n_targets": 60,
    "n_cells": 4000,
    "width": 10,
    "mean_counts": 576.0,
    "library_spread": 0.6,
    "theta": 5.0,
    "effect": 0.22,
    "shared_effect": 0.1,
    "knock_down": -1.0,
    "covariation": 0.0,
}


def gathered(design: dict) -> tuple[Sums, dict[str, np.ndarray], np.ndarray]:
    """Sums of a simulated screen of which the last 15 targets are held out."""
    screen = simulate(design)
    names = sorted(screen.change)
    rng = np.random.default_rng(design["seed"])
    held_out = set(rng.permutation(names)[:15])
    totals = np.asarray(screen.counts.sum(axis=1)).ravel()
    control = np.flatnonzero(screen.target == CONTROL)
    halves = np.zeros(len(totals), dtype=bool)
    halves[rng.permutation(control)[: len(control) // 2]] = True
    code = np.array([-1 if name == CONTROL else names.index(name) for name in screen.target])
    fold = np.where(
        code >= 0, [0 if name in held_out else -1 for name in screen.target], np.where(halves, -2, -3)
    )
    depth = float(np.median(totals[fold == -3]))
    target_sum = float(np.median(totals[control]))
    keys, place = np.unique(np.stack([code, fold], axis=1), axis=0, return_inverse=True)
    place = place.ravel()
    from scipy import sparse

    indicator = sparse.csr_matrix((np.ones(len(place)), (place, np.arange(len(place)))))
    logs = screen.counts.multiply((target_sum / totals)[:, None]).tocsr().log1p()
    s = totals / depth
    training = fold == -3
    sums = Sums(
        *keys.T, np.zeros(len(keys), int), np.zeros(len(keys), int),
        indicator @ np.ones(len(place)), indicator @ s, indicator @ s**2, indicator @ totals,
        (indicator @ screen.counts).toarray().astype(float), (indicator @ logs).toarray(),
        (indicator @ logs.multiply(logs)).toarray(),
        np.asarray(screen.counts[training].multiply(screen.counts[training]).sum(axis=0)).ravel().astype(float),
        np.asarray(screen.counts[training].T @ s[training]), s[training], depth, target_sum,
        np.array(screen.genes, dtype=object), np.array(names, dtype=object),
        np.array([screen.genes.index(name) for name in names]), np.zeros((len(names) + 1, 3)),
    )  # fmt: skip
    return sums, screen.change, screen.vectors


def main(arguments: list[str] | None = None) -> None:
    """Run every predictor for every seed and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options = parser.parse_args(arguments)
    rows: dict[str, list[list[float]]] = {}
    for seed in options.seeds:
        design = SimulatedScreen(**DESIGN, seed=seed).model_dump()
        sums, change, vectors = gathered(design)
        embedding = Embedding(vectors, dict(zip(sums.genes, vectors, strict=True)))
        background = Background.of(sums, control_statistics(sums))
        held_out = sums.by_target(sums.held_out(0))
        asked = [str(sums.targets[number]) for number in held_out.target]
        fold = Fold(sums, background, embedding, 0, asked)
        scored = (sums.target == -1) & (sums.fold == -2)
        control = sums.logs[scored].sum(axis=0) / sums.n[scored].sum()
        own = np.array([list(sums.genes).index(name) for name in asked])
        predictions = {}
        cases = {
            "control": ("control_mean", {}),
            "mean of perturbed": ("perturbed_mean", {}),
            "bilinear ridge 0.1": ("bilinear_ridge", {}),
            "NB-GLM, ridge 10, no on-target term": (
                "nb_glm", {"penalty_K": 10, "shrinkage": 1, "on_target": False}),
            "NB-GLM, ridge 10": ("nb_glm", {"penalty_K": 10, "shrinkage": 1}),
            "NB-GLM, default": ("nb_glm", {}),
        }  # fmt: skip
        for name, (kind, keys) in cases.items():
            predictor = predictor_of(kind)(settings_of(kind)(**keys).model_dump())
            predictor.predict(fold)  # compiles
            started = time.process_time()
            predictions[name] = predictor.predict(fold), time.process_time() - started
        truth = np.array([change[name] for name in asked])
        # in the units of the estimate: a cell's size factor is its own total over the median
        exact = np.log(background.control.mean) + truth
        exact -= np.log(np.exp(exact).sum(axis=1, keepdims=True) / background.control.mean.sum())
        predictions["true log fold changes"] = background.from_rates(asked, exact), 0.0
        reference = fold.trained.profiles.mean(axis=0)
        for name, (prediction, seconds) in predictions.items():
            real = held_out.profiles - control
            mine = prediction.profile - control
            estimated = prediction.log_rate - np.log(background.control.mean)
            rows.setdefault(name, []).append(
                [
                    metrics.pearson(mine, real).mean(),
                    metrics.pearson(prediction.profile - reference, held_out.profiles - reference).mean(),
                    metrics.mean_absolute_error(prediction.profile, held_out.profiles).mean(),
                    metrics.discrimination(metrics.distances(mine, real, own)).mean(),
                    np.corrcoef(estimated.ravel(), truth.ravel())[0, 1] if estimated.any() else 0.0,
                    metrics.log_likelihood(
                        prediction.log_rate, background.control.theta, held_out.counts, held_out.size,
                        held_out.size_squared,
                    ).mean(),
                    seconds,
                ]
            )  # fmt: skip
    print("| | Pearson delta | centred Pearson | MAE | PDS | correlation | NB log-likelihood | CPU s |")
    print("|---|---|---|---|---|---|---|---|")
    for name, values in rows.items():
        mean = np.mean(values, axis=0)
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in mean) + " |")


if __name__ == "__main__":
    main()
