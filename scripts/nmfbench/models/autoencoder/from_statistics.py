"""Fits from sufficient statistics that were gathered before: no cell is read."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nmfbench.data import FilteredCounts
from nmfbench.device import resolve_device
from nmfbench.errors import InputError
from nmfbench.fitting.checkpoint import Checkpoint
from nmfbench.models.autoencoder.exact import ConditionSums
from nmfbench.models.autoencoder.exact.adapters import conditions_of, operator_of
from nmfbench.models.autoencoder.exact.operators import GramOperator
from nmfbench.models.autoencoder.from_cells import fit_exact
from nmfbench.models.autoencoder.solver_choice import SolverChoice
from nmfbench.models.labels import Conditions, encode_conditions
from nmfbench.models.limits import check_parameters, seed_from
from nmfbench.statistics import Statistics, load

if TYPE_CHECKING:
    import torch

    from nmfbench.models.autoencoder.estimator import Autoencoder

log = logging.getLogger(__name__)

_MIB = 2**20


@dataclass(frozen=True)
class GatheredCells:
    """What a descent asks of the cells, from statistics."""

    statistics: Statistics
    has_types: bool = True

    @property
    def n_cells(self) -> int:
        return self.statistics.n_cells

    def condition_sums(self, *, by_type: bool) -> ConditionSums:
        """See :class:`nmfbench.models.autoencoder.from_cells.Cells`."""
        found = conditions_of(self.statistics)
        if by_type:
            return found
        return ConditionSums(found.sums.sum(axis=0, keepdims=True), found.counts.sum(axis=0, keepdims=True))

    def fingerprint(self) -> str:
        """A text that changes with the cells that were read and with how they were laid out."""
        text = self.statistics.layout.to_json() + " ".join(self.statistics.digests)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def fit_statistics(
    model: Autoencoder,
    statistics: Statistics,
    *,
    operator: GramOperator | None = None,
    use_types: bool = True,
    checkpoint: str | Path | None = None,
    should_stop: Callable[[], bool] | None = None,
    progress: bool | None = None,
) -> Autoencoder:
    """Learn the loadings of `model` from statistics, to the objective that the cells themselves give.

    Parameters
    ----------
    model : Autoencoder
        Its conditions are all columns of the statistics' layout.
    statistics : Statistics
        Of all shards, or of those that are to be fitted.
    operator : GramOperator, optional
        What :func:`gram_of` made of the same statistics, for many fits that share it.
    use_types : bool
        Whether the invariance penalty of model 1 may use the cell types.
    checkpoint, should_stop, progress
        As in :meth:`nmfbench.models.autoencoder.estimator.Autoencoder.fit`.

    Returns
    -------
    model
        Fitted, without ``embedding_``; its ``conditions_`` have the categories and no cell's code.

    Raises
    ------
    InputError
        If the model needs minibatches, its rank is too large, or its statistics are not among these.
    """
    check_parameters(model)
    if only := model._minibatch_only():
        raise InputError(
            f"{type(model).__name__}: a fit from statistics with {' and '.join(only)}",
            "init 'nndsvd' or 'random', and row_norm=False", ", ".join(only),
            "change these, or fit the cells with solver='minibatch'",
        )  # fmt: skip
    layout, n = statistics.layout, statistics.n_cells
    model._check_rank(n, len(layout.genes))
    model.n_features_in_ = len(layout.genes)
    model.conditions_ = _categories(statistics) if model._conditional else encode_conditions(None, 0)
    model._check_conditions(model.conditions_)
    model.solver_choice_ = SolverChoice("statistics", "gram", {}, "from statistics gathered before")
    cells = GatheredCells(statistics, use_types)
    keeper, stored = None, None
    if checkpoint is not None:
        settings = model._checkpoint_settings(model.solver_choice_) | {"use_types": use_types}
        keeper = Checkpoint(checkpoint, settings, cells.fingerprint())
        stored = keeper.load()
    model.seed_ = seed_from(model.random_state) if stored is None else stored[1]["seed"]
    weights, state = fit_exact(
        model,
        cells,
        lambda: operator or gram_of(model, statistics),
        model.seed_,
        checkpoint=keeper,
        stored=stored,
        should_stop=should_stop,
        progress=progress,
    )
    device = resolve_device(model.device) if operator is None else operator.device
    model.device_ = str(device) if str(device).startswith("cuda") else "cpu"
    model._keep_state(state)
    model.uses_labels_ = use_types and model._labels_in_the_loss()
    model._keep(weights)
    return model


def fit_file(
    model: Autoencoder,
    path: str | Path,
    data: FilteredCounts,
    normalisation: Mapping[str, Any],
    *,
    conditions: Any,
    checkpoint: str | Path | None = None,
    should_stop: Callable[[], bool] | None = None,
    progress: bool | None = None,
) -> bool:
    """Fit `model` from a file of statistics; the cells are left to be embedded.

    Parameters
    ----------
    model : Autoencoder
    path : path
        Statistics of all cells of `data`.
    data : FilteredCounts
    normalisation : mapping
        ``target_sum`` and ``log1p``.
    conditions : DataFrame or None
        The condition columns of the cells, for a conditional model.
    checkpoint, should_stop, progress
        As in :func:`fit_statistics`.

    Returns
    -------
    bool
        False where the model needs a Gram matrix for each donor and these were too large to gather: nothing
        was done then.

    Raises
    ------
    InputError
        If the statistics are damaged, or of other data, another normalisation or other conditions.
    """
    began = time.monotonic()
    statistics = load(path, memory_map=True)
    statistics.require(fingerprint=data.fingerprint, normalisation=dict(normalisation))
    if model._conditional:
        _check_columns(path, statistics, conditions)
    if model._own_loadings and statistics.donor_grams is None:
        log.warning("%s holds no Gram matrix for each donor: the cells themselves are fitted", path)
        return False
    log.info("statistics of %d cells read and checked in %.1f s", data.n_cells, time.monotonic() - began)
    fit_statistics(model, statistics, checkpoint=checkpoint, should_stop=should_stop, progress=progress)
    if model.stop_reason_ == "interrupted":
        return True
    if model._conditional:
        model.conditions_ = encode_conditions(conditions, data.n_cells)
    return True


def gram_of(model: Autoencoder, statistics: Statistics) -> GramOperator:
    """XᵀX as `model` needs it: held where it fits in its ``gram_memory_mb``, else left on disk.

    Raises
    ------
    InputError
        If the model needs a Gram matrix for each donor and there is none, or the GPU has no room for it.
    """
    device = resolve_device(model.device)
    held = statistics.donor_grams if model._own_loadings else statistics.gram
    if device.type == "cuda" and held is not None:
        _check_room(held, device)
    options = {"by_donor": model._own_loadings, "device": str(device) if device.type == "cuda" else "cpu"}
    operator = operator_of(statistics, partial=True, **options)
    if isinstance(held, np.memmap) and held.nbytes <= model.gram_memory_mb * _MIB:
        operator.hold()
    return operator


def _check_room(held: np.ndarray, device: torch.device) -> None:
    import torch

    need, free = held.nbytes / _MIB, torch.cuda.mem_get_info(device)[0] / _MIB
    if need > free:
        raise InputError(
            f"XᵀX of {held.shape[-1]} genes on {device}", f"at most the {free:.0f} MiB that are free",
            f"{need:.0f} MiB", "keep fewer genes (datasets.<name>.genes), or set device: cpu",
        )  # fmt: skip


def _check_columns(path: str | Path, statistics: Statistics, conditions: Any) -> None:
    gathered, wanted = list(statistics.layout.conditions), list(conditions.columns)
    if gathered != wanted:
        raise InputError(
            f"{path}: condition columns", ", ".join(wanted), ", ".join(gathered),
            "gather the statistics of the present settings: delete the file and run again",
        )  # fmt: skip


def _categories(statistics: Statistics) -> Conditions:
    columns = statistics.layout.conditions
    for name, categories in columns.items():
        if len(categories) < 2:
            raise InputError(
                f"conditions: column {name!r} has one category",
                "at least two, for a model that tells conditions apart", str(categories),
                "give data of several donors (lower min_cells_per_donor), or use ae_nmf",
            )  # fmt: skip
    return Conditions(
        tuple(columns),
        tuple(np.array(categories) for categories in columns.values()),
        np.zeros((0, len(columns)), np.int64),
    )
