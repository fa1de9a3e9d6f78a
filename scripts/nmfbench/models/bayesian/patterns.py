"""What surrounds the counts of a fit: donors and constant patterns, read, checked and aligned by name."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nmfbench.errors import InputError
from nmfbench.models.labels import encode_conditions

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Given:
    """Donors and constant patterns.

    Attributes
    ----------
    donors : ndarray of int of shape (cells,) or None
        Donor of each cell, where the model uses it.
    donor_names : ndarray of str or None
    cells, genes : ndarray of shape (cells, f), (genes, f) or None
        Constant patterns; one of the two at most.
    patterns : list of str
        Their names.
    """

    donors: np.ndarray | None = None
    donor_names: np.ndarray | None = None
    cells: np.ndarray | None = None
    genes: np.ndarray | None = None
    patterns: tuple[str, ...] = ()

    @property
    def n_fixed(self) -> int:
        """f, the number of constant patterns."""
        return len(self.patterns)

    def fingerprint(self) -> str:
        """A text that changes with any of it."""
        digest = hashlib.blake2b(repr(self.patterns).encode(), digest_size=16)
        for part in (self.donors, self.cells, self.genes):
            digest.update(b"none" if part is None else np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()


def gather(estimator: Any, n_cells: int, conditions: Any, cell_names: Any, gene_names: Any) -> Given:
    """Donors and constant patterns as the estimator's parameters ask for them.

    Raises
    ------
    InputError
        If donors are needed and not given, or the patterns do not fit the data.
    """
    by_donors = isinstance(estimator.fixed_samples, str) and estimator.fixed_samples == "donors"
    found: dict[str, Any] = {}
    if by_donors or estimator.learn_probs == "donor":
        asked = "fixed_samples='donors'" if by_donors else "learn_probs='donor'"
        if conditions is None:
            raise InputError(
                f"{type(estimator).__name__}: {asked}",
                "the donor of each cell",
                "conditions=None",
                "give fit(..., conditions=...), or drop the parameter",
            )
        encoded = encode_conditions(conditions, n_cells)
        if len(encoded.names) > 1:
            raise InputError(
                f"{type(estimator).__name__}: {asked}",
                "one column of conditions",
                f"{len(encoded.names)} ({', '.join(encoded.names)})",
                "give the donors alone (condition_columns of one column)",
            )
        found |= {"donors": encoded.codes[:, 0], "donor_names": encoded.categories[0]}
    if by_donors:
        values, names = donor_indicators(found["donors"], found["donor_names"])
        found |= {"cells": values, "patterns": tuple(names)}
    elif estimator.fixed_samples is not None:
        values, names = align_patterns(estimator.fixed_samples, cell_names, "fixed_samples")
        found |= {"cells": values, "patterns": tuple(names)}
    elif estimator.fixed_genes is not None:
        values, names = align_patterns(estimator.fixed_genes, gene_names, "fixed_genes")
        found |= {"genes": values, "patterns": tuple(names)}
    return Given(**found)


def _priors_are_kept(e: Any) -> bool:
    shapes = [getattr(e, f"prior_shape_{side}", 1.0) for side in "PA"]
    return e.learn_rates == getattr(e, "learn_shapes", "fixed") == "fixed" and min(shapes) >= 1


def check_together(estimator: Any) -> None:
    """Refuse parameters that do not go together.

    Raises
    ------
    InputError
        Naming them.
    """
    e, who = estimator, type(estimator).__name__
    mean_is_theta = e.nb_probs == 0.5 and e.learn_probs == "fixed"
    terms = [name for name in ("use_pois", "use_chisq") if getattr(e, name)]
    problems = [
        (
            terms and not mean_is_theta,
            f"{' and '.join(terms)} with nb_probs={e.nb_probs}, learn_probs={e.learn_probs!r}",
            "nb_probs=0.5 and learn_probs='fixed'",
            "these terms take theta for the mean, which is theta p / (1 - p): drop them, or leave p at 0.5",
        ),
        (
            e.use_chisq and e.inference != "svi",
            f"use_chisq with inference={e.inference!r}",
            "inference='svi'",
            "with this term the best posterior of an entry is no gamma but x^(a-1) exp(-b x - c x²), and no "
            "update has a closed form; set inference='svi', or drop it",
        ),
        (
            e.mask_fraction and e.held_out_fraction,
            f"mask_fraction={e.mask_fraction:g} with held_out_fraction={e.held_out_fraction:g}",
            "one way to hold out",
            "entries and molecules are scored apart: set one of the two to 0",
        ),
        (
            e.inference == "map" and e.batch_size is not None,
            f"inference='map' with batch_size={e.batch_size}",
            "batch_size=None",
            "most probable values are found from all cells at once; drop one of the two",
        ),
        (
            e.inference == "map" and not _priors_are_kept(e),
            "inference='map' with priors that are learnt, or a shape below 1",
            "learn_rates='fixed', learn_shapes='fixed' and shapes of at least 1",
            "the density of factors and priors has no largest value otherwise: set them so, or take 'cavi'",
        ),
        (
            e.fixed_genes is not None and e.fixed_samples is not None,
            "fixed_genes and fixed_samples",
            "one of the two",
            "drop one",
        ),
        (
            e.fixed_genes is not None and e.learn_probs == "gene",
            "fixed_genes with learn_probs='gene'",
            "learn_probs='fixed', 'all' or 'donor'",
            "the mean is theta p / (1 - p): a p for each gene would bend the patterns that are given; set "
            "learn_probs='fixed'",
        ),
        (
            e.n_components == 0 and e.fixed_genes is None,
            "n_components=0",
            "at least 1 without fixed_genes",
            "give fixed_genes, or learn some patterns",
        ),
        (
            e.inference == "map" and e.scored_patterns == "in_use",
            "scored_patterns='in_use' with inference='map'",
            "inference='cavi' or 'svi'",
            "the most probable values have no posterior variance to compare with; set scored_patterns='all'",
        ),
        (
            e.keep_on_cpu and e.batch_size is None,
            "keep_on_cpu without batch_size",
            "minibatches",
            "set batch_size, or drop keep_on_cpu",
        ),
        (
            e.storage_device == "cpu" and e.batch_size is None and e.device not in ("auto", "cpu"),
            f"storage_device='cpu' on {e.device} without batch_size",
            "minibatches",
            "set batch_size, or storage_device='auto'",
        ),
        (
            e.param_P is False and e.inference == "svi" and e.storage_device == "cpu" and e.batch_size,
            "storage_device='cpu' with param_P=False",
            "param_P=True",
            "Pyro's AutoNormal lies where the model is; set param_P=True",
        ),
    ]
    for wrong, what, expected, remedy in problems:
        if wrong:
            raise InputError(f"{who}: {what}", expected, what, remedy)


def align_patterns(given: Any, names: Any, what: str) -> tuple[np.ndarray, list[str]]:
    """Given patterns in the order of the data.

    Parameters
    ----------
    given : DataFrame or path
        One row for each gene (cell), named by the index; one column for each pattern. A file is a table with
        the names in its first column, separated by commas (.csv) or tabs.
    names : sequence of str or None
        The genes (cells) of the data, in order.
    what : {"fixed_genes", "fixed_samples"}
        The parameter, for messages.

    Returns
    -------
    values : ndarray of shape (len(names), patterns), float64
    patterns : list of str

    Raises
    ------
    InputError
        If a name of the data is missing, a name comes twice, or a value is not a finite number of at least 0.
    """
    kind = "gene" if what == "fixed_genes" else "cell"
    if names is None:
        raise InputError(
            f"{what}: the {kind}s of X have no names",
            "names to align the patterns by",
            "a matrix alone",
            f"give fit(..., {kind}_names=...), or X as a DataFrame",
        )
    table = _read(given, what)
    index, names = table.index.astype(str), np.asarray(names, dtype=str)
    for labels, owner in ((index, what), (names, "X")):
        values, times = np.unique(labels, return_counts=True)
        if (times > 1).any():
            raise InputError(
                f"{what}: {owner} names a {kind} twice",
                "names that occur once",
                f"{values[times > 1][0]!r} {times.max()} times",
                f"rename or drop the doubled {kind}s",
            )
    absent = np.setdiff1d(names, index)
    if len(absent):
        raise InputError(
            f"{what}: {len(absent)} of the {len(names)} {kind}s of the data have no row",
            f"a row for every {kind}",
            f"none for {', '.join(absent[:5])}{' ...' if len(absent) > 5 else ''}",
            f"add them (0 where a pattern has nothing), or drop these {kind}s from the data",
        )
    if len(index) > len(names):
        log.info("%s: %d rows belong to no %s of the data", what, len(index) - len(names), kind)
    table.index = index
    try:
        values = table.loc[names].to_numpy(dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what}: its values", "numbers", str(error), "mend the table") from None
    if not values.shape[1]:
        raise InputError(f"{what}: its columns", "at least one pattern", "none", "leave it out, or add one")
    if not np.isfinite(values).all() or (values < 0).any():
        bad = int((~np.isfinite(values) | (values < 0)).sum())
        raise InputError(
            f"{what}: its values", "finite numbers of at least 0", f"{bad} that are not", "mend the table"
        )
    return values, [str(column) for column in table.columns]


def donor_indicators(codes: np.ndarray, categories: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """One pattern for each donor, 1 in its cells: its genes are then an additive profile of the donor."""
    return np.eye(len(categories))[codes], [str(category) for category in categories]


def _read(given: Any, what: str):
    import pandas as pd

    if hasattr(given, "iloc") and getattr(given, "ndim", 0) == 2:
        return given.copy()
    if not isinstance(given, (str, Path)):
        raise InputError(
            f"parameter {what}", "a DataFrame or the path of a table", type(given).__name__, f"set {what} so"
        )
    path = Path(given)
    try:
        return pd.read_csv(path, sep="," if path.suffix == ".csv" else "\t", index_col=0)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{what}: {path} cannot be read",
            "a table with names in its first column",
            str(error),
            "give a .csv or a tab-separated file",
        ) from error
