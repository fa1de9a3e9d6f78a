"""How often intervals hold what they should: planted truth, many repetitions.

    python benchmarks/interval_coverage.py --repetitions 200

Donors: each has an accuracy of its own about a known mean, and unequal numbers of cells; the truth is the
mean share of cells predicted right when donors are drawn anew. Seeds: normal scores about a known mean.
Folds: two embeddings of equal worth, classified over the same folds; a test at 5 % should find a difference
in 5 % of the repetitions.
"""

from __future__ import annotations

import argparse

import numpy as np

from nmfbench.metrics.contingency import prediction_scores
from nmfbench.metrics.uncertainty import corrected_resampled_t, donor_interval, seed_interval


def donors_cover(n_donors: int, rng: np.random.Generator) -> tuple[bool, str]:
    """Whether the interval of one study holds the accuracy of the population of donors."""
    a, b = 8.0, 2.0  # accuracies of donors: Beta, mean 0.8
    sizes = rng.integers(50, 400, n_donors)
    right = rng.binomial(sizes, rng.beta(a, b, n_donors))
    tables = np.zeros((n_donors, 2, 2))
    tables[:, 0, 0], tables[:, 0, 1] = right // 2, (sizes - right) // 2
    tables[:, 1, 1], tables[:, 1, 0] = right - right // 2, sizes - right - (sizes - right) // 2

    def accuracy(counts):
        return prediction_scores(counts)["Accuracy"]

    found = donor_interval([[tables]], accuracy, replicates=500, seed=int(rng.integers(2**31)))
    return found.low <= a / (a + b) <= found.high, found.method


def seeds_cover(n_seeds: int, rng: np.random.Generator) -> bool:
    """Whether the interval of one set of training seeds holds the mean over all."""
    found = seed_interval(rng.normal(0.5, 0.02, n_seeds))
    return found.low <= 0.5 <= found.high


def folds_differ(rng: np.random.Generator) -> tuple[bool, bool]:
    """Whether the plain and the corrected test find a difference where there is none."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.model_selection import RepeatedStratifiedKFold

    y = np.arange(200) % 2
    one, other = (y[:, None] * 0.8 + rng.normal(size=(200, 3)) for _ in range(2))
    d = []
    for train, test in RepeatedStratifiedKFold(n_splits=5, n_repeats=5, random_state=0).split(one, y):
        scores = [
            LinearDiscriminantAnalysis().fit(H[train], y[train]).score(H[test], y[test]) for H in (one, other)
        ]
        d.append(scores[0] - scores[1])
    return corrected_resampled_t(d, 0.0).p < 0.05, corrected_resampled_t(d, 0.25).p < 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repetitions", type=int, default=200)
    n = parser.parse_args().repetitions
    rng = np.random.default_rng(0)
    print(f"| what | share of {n} repetitions | should be |\n|---|---|---|")
    for n_donors in (8, 12, 24, 40):
        held, method = zip(*(donors_cover(n_donors, rng) for _ in range(n)), strict=True)
        print(f"| {method[0]}, {n_donors} donors: holds the truth | {np.mean(held):.3f} | 0.95 |")
    for n_seeds in (3, 5):
        held = [seeds_cover(n_seeds, rng) for _ in range(n)]
        print(f"| t over {n_seeds} training seeds: holds the truth | {np.mean(held):.3f} | 0.95 |")
    plain, corrected = np.mean([folds_differ(rng) for _ in range(n)], axis=0)
    print(f"| plain t over 25 folds: finds what is not there | {plain:.3f} | 0.05 |")
    print(f"| corrected resampled t: finds what is not there | {corrected:.3f} | 0.05 |")


if __name__ == "__main__":
    main()
