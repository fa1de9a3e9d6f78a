"""The truth of a split: profiles and DE genes of the real held-out cells, made once for all predictions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from nmfbench.perturbation.scoring import rank_sums
from nmfbench.perturbation.scoring.backends import BACKENDS, Backend
from nmfbench.perturbation.scoring.cells import Cells, Normalised, normalise
from nmfbench.perturbation.scoring.differential import Differential, test_groups
from nmfbench.perturbation.scoring.truth_cache import TruthCache


@dataclass(frozen=True)
class Truth:
    """Real held-out cells, summed up.

    Attributes
    ----------
    backend : Backend
    target_sum, fdr : float
    names : list of str
        The targets.
    genes : ndarray of shape (genes,)
    own_gene : ndarray of shape (targets,)
        Number of the gene that is the target; -1 where it is not measured.
    n, median_total : ndarray of shape (targets,)
        Cells, and the median of their counts.
    profiles, variances : ndarray of shape (targets, genes)
        Means of log1p values and the variance of these means.
    control_profile, control_mean : ndarray of shape (genes,)
        Means of the control's log1p values, and what fold changes are taken of.
    differential : Differential
    control : csr_matrix of shape (cells, genes)
        log1p values of the control cells.
    reference : ndarray of shape (targets, genes) or None
        Mean profile of the training targets of each target's fold.
    train_control_profile : ndarray of shape (genes,) or None
    counts, size, size_squared : ndarray or None
        Sums for the likelihood.
    fingerprint : str
        Of the cells.
    """

    backend: Backend
    target_sum: float
    fdr: float
    names: list[str]
    genes: np.ndarray
    own_gene: np.ndarray
    n: np.ndarray
    median_total: np.ndarray
    profiles: np.ndarray
    variances: np.ndarray
    control_profile: np.ndarray
    control_mean: np.ndarray
    differential: Differential
    control: sparse.csr_matrix
    reference: np.ndarray | None = None
    train_control_profile: np.ndarray | None = None
    counts: np.ndarray | None = None
    size: np.ndarray | None = None
    size_squared: np.ndarray | None = None
    fingerprint: str = ""

    @cached_property
    def prepared_control(self) -> rank_sums.Control:
        """The control cells, sorted for tests."""
        return rank_sums.prepare(self.control)

    def responsive(self, least: int) -> np.ndarray:
        """Mask of the targets with at least so many real DE genes: fixed by the truth, never a prediction."""
        return self.differential.significant(self.fdr).sum(axis=1) >= least

    def save(self, path: str | Path) -> None:
        """Write everything to one file."""
        stored: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "backend":
                stored["backend"] = np.array(value.name)
            elif field.name == "differential":
                stored |= {"p": value.p, "q": value.q, "log2_fold_change": value.log2_fold_change}
            elif field.name == "control":
                stored |= {f"control/{part}": getattr(value, part) for part in ("data", "indices", "indptr")}
            elif value is not None:
                array = np.asarray(value)
                stored[field.name] = array.astype(str) if array.dtype.kind in "OU" else array
        np.savez(path, **stored)


def read_truth(path: str | Path) -> Truth:
    """Read what :meth:`Truth.save` wrote."""
    with np.load(path, allow_pickle=False) as file:
        stored = {name: file[name] for name in file.files}
    control = _csr(stored)
    differential = Differential(*(stored.pop(name) for name in ("p", "q", "log2_fold_change")))
    return Truth(
        backend=BACKENDS[str(stored.pop("backend"))],
        target_sum=float(stored.pop("target_sum")),
        fdr=float(stored.pop("fdr")),
        names=stored.pop("names").astype(str).tolist(),
        genes=stored.pop("genes").astype(object),
        fingerprint=str(stored.pop("fingerprint")),
        control=control,
        differential=differential,
        **stored,
    )


def _csr(stored: dict[str, Any]) -> sparse.csr_matrix:
    data, indices, indptr = (stored.pop(f"control/{part}") for part in ("data", "indices", "indptr"))
    return sparse.csr_matrix((data, indices, indptr), shape=(len(indptr) - 1, len(stored["genes"])))


def depth_of(backend: Backend, cells: Cells, given: float) -> float:
    """Counts that the cells of one side are scaled to."""
    if backend.target_sum == "given":
        return given
    return float(np.median(cells.totals)) if backend.target_sum == "median" else float(backend.target_sum)


def differential_of(
    backend: Backend,
    cells: Normalised,
    control: rank_sums.Control,
    means: np.ndarray,
    control_mean: np.ndarray,
    known_p: np.ndarray | None = None,
) -> Differential:
    """Tests of groups by the conventions of a scorer; see :func:`test_groups`."""
    return test_groups(
        cells,
        control,
        means,
        control_mean,
        ties=backend.ties,
        continuity=backend.continuity,
        expressed_only=backend.expressed_only,
        fold_change=backend.fold_change,
        known_p=known_p,
    )


def build_truth(
    cells: Cells,
    backend: Backend,
    genes: Sequence[str],
    own_gene: np.ndarray,
    *,
    target_sum: float,
    fdr: float,
    cache: TruthCache | None = None,
) -> Truth:
    """Sum up real cells.

    Parameters
    ----------
    cells : Cells
        Held-out cells of the targets, and the control cells for scoring (group -1).
    backend : Backend
    genes : sequence of str
    own_gene : ndarray of shape (targets,)
    target_sum : float
        For a scorer with one depth for both sides.
    fdr : float
    cache : TruthCache, optional
        A truth made before, whose p values are taken over. Its fold changes are not: they follow from the
        means by the conventions of the scorer.
    """
    depth = depth_of(backend, cells, target_sum)
    values = normalise(cells, depth)
    means, variances, linear = values.moments()
    of_change = linear if backend.linear_means else means
    control = rank_sums.prepare(values.rows(-1))
    fingerprint = fingerprint_of(cells)
    known = cache and cache.p_values(cells.names, genes, means[0], means[1:], fingerprint)
    differential = differential_of(backend, values, control, of_change[1:], of_change[0], known)
    totals = cells.totals
    medians = [np.median(totals[cells.group == number]) for number in range(len(cells.names))]
    n = np.maximum(values.n, 1)[:, None]
    return Truth(
        backend=backend,
        target_sum=depth,
        fdr=fdr,
        names=list(cells.names),
        genes=np.asarray(genes, dtype=object),
        own_gene=np.asarray(own_gene),
        n=values.n.astype(float),
        median_total=np.array(medians),
        profiles=means[1:],
        variances=variances[1:] / n,
        control_profile=means[0],
        control_mean=of_change[0],
        differential=differential,
        control=values.rows(-1),
        fingerprint=fingerprint,
    )


def fingerprint_of(cells: Cells) -> str:
    """Digest of cells and groups: a truth of other cells is another truth."""
    digest = hashlib.sha256("\t".join(cells.names).encode())
    for array in (cells.counts.data, cells.counts.indices, cells.counts.indptr, cells.group):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
