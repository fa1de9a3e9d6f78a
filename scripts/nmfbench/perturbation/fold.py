"""What a predictor is given of one fold, and what it gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nmfbench.perturbation.background import Background, Prediction
from nmfbench.perturbation.control import Control
from nmfbench.perturbation.embeddings import Embedding, response_embedding
from nmfbench.perturbation.sums import GroupedSums, Sums


@dataclass(frozen=True)
class Fold:
    """Training data of a fold.

    Attributes
    ----------
    sums : Sums
    background : Background
        The control cells for training; the same in every fold.
    embedding : Embedding or None
    number : int
        Of the fold; -1 trains on all targets.
    asked : list of str
        Targets to predict.
    only : ndarray of shape (groups,) or None
        Train on no others than these.
    """

    sums: Sums
    background: Background
    embedding: Embedding | None
    number: int
    asked: list[str]
    only: np.ndarray | None = None

    @cached_property
    def mask(self) -> np.ndarray:
        """Groups that are trained on, shape (groups,)."""
        mask = self.sums.training(self.number)
        return mask if self.only is None else mask & self.only

    @cached_property
    def trained(self) -> GroupedSums:
        """Sums of the training targets."""
        return self.sums.by_target(self.mask)

    @cached_property
    def trained_names(self) -> list[str]:
        """Names of the training targets, in the order of :attr:`trained`."""
        return [str(self.sums.targets[target]) for target in self.trained.target]

    @property
    def control(self) -> Control:
        """Statistics of the control cells."""
        return self.background.control

    def part(self, only: np.ndarray, asked: list[str]) -> Fold:
        """The same fold with the groups of `only`, shape (groups,), to train on: for choosing penalties."""
        kept = only if self.only is None else self.only & only
        return Fold(self.sums, self.background, self.embedding, self.number, asked, kept)

    def gene_of(self, names: Sequence[str]) -> list[list[int]]:
        """Numbers of the measured genes that targets name; two for a measured double."""
        place = {gene: number for number, gene in enumerate(self.sums.genes)}
        separator = "+" if self.embedding is None else self.embedding.pair_separator
        return [
            [place[part] for part in ([name] if name in place else name.split(separator)) if part in place]
            for name in names
        ]

    def vectors(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Vectors of genes, training targets and asked targets, and masks of those without one."""
        if self.embedding is None:
            raise ValueError("this predictor needs an embedding")
        if self.embedding.components:
            return self._from_responses()
        trained, missing_trained = self.embedding.of(self.trained_names)
        asked, missing_asked = self.embedding.of(self.asked)
        return self.embedding.genes, trained, asked, missing_trained, missing_asked

    def _from_responses(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        sums = self.trained
        rates = (sums.counts + self.control.mean * 2) / (sums.size[:, None] + 2)  # two cells of the control
        change = np.log(rates / self.control.mean)
        centre = np.average(change, axis=0, weights=sums.n)
        root = np.sqrt(sums.n)[:, None]
        genes, targets = response_embedding(
            (change - centre) * root, self.control.mean, self.embedding.components
        )
        targets = targets / root
        place = {name: row for row, name in enumerate(self.trained_names)}
        missing = np.array([name not in place for name in self.asked], dtype=bool)
        asked = np.zeros((len(self.asked), targets.shape[1]))
        for row, name in enumerate(self.asked):
            if name in place:
                asked[row] = targets[place[name]]
        return genes, targets, asked, np.zeros(len(targets), dtype=bool), missing

    def from_profiles(self, change: np.ndarray, flags: list[str] | None = None) -> Prediction:
        """A prediction of what is asked from changes of the mean log1p profile, shape (asked, genes)."""
        return self.background.from_profiles(self.asked, change, flags)
