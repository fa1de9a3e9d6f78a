"""A small simulated screen for tests, in memory."""

from __future__ import annotations

import numpy as np

from nmfbench.perturbation.background import Background
from nmfbench.perturbation.control import control_statistics
from nmfbench.perturbation.embeddings import Embedding
from nmfbench.perturbation.fold import Fold
from nmfbench.perturbation.screen import CONTROL, Screen
from nmfbench.perturbation.simulate import CONTROL as LABEL
from nmfbench.perturbation.simulate import simulate
from nmfbench.perturbation.splits import SCORED_CONTROL, TRAIN_CONTROL, TRAINED, Split
from nmfbench.perturbation.sums import Sums, gather_sums

VECTORS: dict[int, dict[str, np.ndarray]] = {}


class InMemory:
    """Counts as :class:`nmfbench.data.filtered.FilteredCounts` gives them."""

    def __init__(self, counts):
        self.counts, self.n_genes = counts, counts.shape[1]

    def blocks(self, block_size=500):
        for start in range(0, self.counts.shape[0], block_size):
            yield start, self.counts[start : start + block_size]


def screen_of(design, control_share=None):
    """A screen without G2M cells."""
    import pandas as pd

    from nmfbench.perturbation import simulate as module

    share = module.CONTROL_SHARE
    try:
        module.CONTROL_SHARE = share if control_share is None else control_share
        made = simulate(design)
    finally:
        module.CONTROL_SHARE = share
    targets = sorted(made.change)
    codes = np.array(
        [CONTROL if name == LABEL else targets.index(name) for name in made.target], dtype=np.int32
    )
    phase = pd.Categorical(np.where(made.phase == "G2M", "S", made.phase), categories=["G1", "S", "G2M"])
    genes = np.array(made.genes, dtype=object)
    return Screen(InMemory(made.counts), LABEL, targets, codes, genes, None, None, None, phase, "+"), made


def sums_of(design, n_held_out: int, control_share=None) -> Sums:
    """Sums of a simulated screen with its last targets held out."""
    screen, made = screen_of(design, control_share)
    rng = np.random.default_rng(0)
    fold = np.where(screen.codes >= len(screen.targets) - n_held_out, 0, TRAINED)
    control = rng.permutation(np.flatnonzero(screen.codes == CONTROL))
    fold[control] = TRAIN_CONTROL
    fold[control[len(control) // 2 :]] = SCORED_CONTROL
    totals = np.asarray(made.counts.sum(axis=1), dtype=float).ravel()
    half = rng.integers(0, 2, len(fold)).astype(np.int8)
    sums = gather_sums(screen, Split(fold.astype(np.int32), half, totals, screen.phases()))
    VECTORS[id(sums)] = dict(zip(made.genes, made.vectors, strict=True))
    return sums


def fold_of(sums: Sums) -> Fold:
    """Its one fold, with the true vectors."""
    vectors = VECTORS[id(sums)]
    embedding = Embedding(np.array(list(vectors.values())), vectors)
    asked = [str(sums.targets[number]) for number in np.unique(sums.target[sums.held_out(0)])]
    return Fold(sums, Background.of(sums, control_statistics(sums)), embedding, 0, asked)
