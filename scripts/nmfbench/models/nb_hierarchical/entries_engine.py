"""``engine: entries``: the published stream of entries of the flattened matrix, aligned and scaled right.

Each step draws `batch_size` linear indices; one draw gives count, gene, cell and offsets of an entry. The
likelihood is multiplied by entries / batch, priors and entropy are not, and every parameter moves. Nothing of
the length of the flattened matrix exists. It is here to repeat the published fit; the exact engine is sooner.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nmfbench.models.nb_hierarchical.entries_kernel import entry_steps
from nmfbench.models.nb_hierarchical.exact import Moments, Problem, relative_change
from nmfbench.models.nb_hierarchical.family import Family, Priors

STEPS_OF_A_CHECK = 100
WINDOW = 10
"""Gradients whose squares the published optimiser adds up."""


class EntriesEngine(Moments):
    """Stochastic gradients of a few entries.

    Parameters
    ----------
    problem : Problem
    counts : csr of shape (cells, genes)
    mask : csr of the same shape or None
        Entries that are never drawn.
    loc, log_sd : ndarray of shape (size,)
        The start, changed in place.
    batch_size : int
    optimizer : {"adam", "adagrad_window"}
    learning_rate : float
    """

    rows = 1000

    def __init__(
        self,
        problem: Problem,
        counts: Any,
        mask: Any,
        loc: np.ndarray,
        log_sd: np.ndarray,
        *,
        batch_size: int,
        optimizer: str,
        learning_rate: float,
    ) -> None:
        self.problem, self.loc, self.log_sd = problem, loc, log_sd
        self.batch_size, self.adam, self.learning_rate = batch_size, optimizer == "adam", learning_rate
        self.scale = problem.likelihood.n_entries / batch_size
        self.share_of_a_step = batch_size / problem.likelihood.n_entries
        self.step_number, self.parameter_change = 0, float("nan")
        self._moments = np.zeros((2, 2 if self.adam else WINDOW + 1, len(loc)))
        empty = np.zeros(counts.shape[0] + 1, counts.indptr.dtype), np.zeros(0, counts.indices.dtype)
        self._data = (
            *(counts.indptr, counts.indices, counts.data),
            *(empty if mask is None else (mask.indptr, mask.indices)),
            *(problem.size.numpy(), problem.length.numpy(), self.scale),
        )

    def advance(self, steps: int) -> None:
        """Make some steps; `parameter_change` is the smallest of the published checks within them."""
        changes = []
        while steps:
            now = min(steps, STEPS_OF_A_CHECK - self.step_number % STEPS_OF_A_CHECK)
            before = np.concatenate([self.loc, self.log_sd])
            seed = np.random.SeedSequence([self.problem.seed, 6, self.step_number]).generate_state(1)[0]
            entry_steps(
                now, seed, self.batch_size, self.adam, self.learning_rate, self.step_number, self.loc,
                self.log_sd, self._moments, *self._data, *family_arguments(self.problem.family),
            )  # fmt: skip
            self.step_number += now
            steps -= now
            changes.append(relative_change(np.concatenate([self.loc, self.log_sd]), before))
        self.parameter_change = min(changes)


def family_arguments(family: Family) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`places`, `forms` and `priors` of :func:`~.entries_kernel.entry_gradient`."""
    names, axes = family.globals, family.places
    wanted = ("mu_gene", "log_sigma_gene", "mu_cell", "log_sigma_cell", "log_alpha", "mu_log_alpha")
    places = [names.index(name) if name in names else -1 for name in (*wanted, "log_sigma_log_alpha")]
    places += [axes[name].start if name in axes else -1 for name in ("gene", "cell", "log_alpha")]
    forms = np.array([family.forms[name] for name in ("gene", "cell", "log_alpha")])
    p: Priors = family.priors
    priors = [p.gene_mean, p.gene_mean_sd, p.gene_sd, p.cell_mean_sd or 0.0, p.cell_sd, p.alpha_scale]
    return np.array(places), forms, np.array([*priors, p.log_alpha_mean_sd, p.log_alpha_sd])
