"""Whether the fits of a dataset share one pass over its cells: what `shared_statistics: auto` decides.

It is decided while jobs are planned, before the cells were filtered, and again by every job of a cluster,
which plans for itself. So it rests on what is the same then and later: the config, and the size of the file
that a dataset begins from, which the filtered counts remember if that file goes away.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmfbench.data.size import Size, size_before, size_of_file
from nmfbench.gram_cost import gram_bytes, host_gram_mb
from nmfbench.models.autoencoder.costs import fit_seconds, gram_method, pass_seconds
from nmfbench.rows.opening import place

if TYPE_CHECKING:
    from nmfbench.config.schema import Config
    from nmfbench.models.card import ModelSection

JOB_SECONDS = 2.0
"""What a further job costs whatever its size: Python, the libraries, reading and writing."""

LEAST_SAVED = 60.0
"""Seconds of one thread below which a pass of its own is not worth its files."""

_MIB = 2**20


@dataclass(frozen=True)
class Sharing:
    """The decision for one dataset.

    Attributes
    ----------
    shared : bool
    setting : "auto" or bool
        What the config says.
    reason : str
    n_fits : int
        Fits that could share the statistics.
    size : dict or None
        ``n_cells``, ``n_genes``, ``n_nonzeros`` that the estimate is made for.
    seconds : dict or None
        Estimated seconds of one thread: ``pass``, ``jobs`` (those that the pass adds), ``from_statistics``
        and ``from_cells`` (all fits, each way).
    """

    shared: bool
    setting: bool | str
    reason: str
    n_fits: int
    size: dict[str, int] | None = None
    seconds: dict[str, float] | None = None

    def record(self) -> dict[str, Any]:
        """The decision as plain values, for the manifest."""
        return asdict(self)


def sharers(config: Config) -> dict[str, ModelSection]:
    """Models of a config whose fits can begin from statistics, with their sections."""
    return {name: section for name, section in config.models.items() if section.begins_from_statistics()}


def decide(config: Config, dataset: str, filtered: str | Path) -> Sharing:
    """Decide for a dataset whether its fits share one pass over the cells.

    Parameters
    ----------
    config : Config
    dataset : str
    filtered : path
        Its filtered counts, which may not be there yet.

    Returns
    -------
    Sharing
    """
    section, models = config.datasets[dataset], sharers(config)
    setting = section.shared_statistics
    n_fits = len(models) * len(config.ranks) * len(config.seeds)
    if setting != "auto":
        return Sharing(setting, setting, "as set", n_fits)
    if n_fits < 2:
        return Sharing(False, setting, "there are no two fits that could share a pass", n_fits)
    if section.url is not None:
        return Sharing(
            False, setting, "the size of a download is not known when its jobs are planned", n_fits
        )
    size = _kept(section.genes, _size_of_source(section, filtered))
    if size is None:
        return Sharing(False, setting, "the number of nonzeros is not known", n_fits)
    return _weigh(config, dataset, models, size, n_fits)


def _weigh(
    config: Config, dataset: str, models: Mapping[str, ModelSection], size: Size, n_fits: int
) -> Sharing:
    """Compare the seconds of both ways."""
    n, p, nnz = size
    found = {"setting": "auto", "n_fits": n_fits, "size": size._asdict()}
    gathering = "cuda" if config.statistics.device == "cuda" else "cpu"
    training = "cuda" if config.device == "cuda" else "cpu"
    need = gram_bytes(p, method=gram_method(n, p, nnz, gathering)) / _MIB
    held = min(host_gram_mb(section.gram_memory_mb) for section in models.values())
    if need > config.statistics.memory_mb or 4 * p * p / _MIB > held:
        limits = (
            f"{config.statistics.memory_mb:.0f} MiB (statistics.memory_mb) and {held:.0f} (gram_memory_mb)"
        )
        reason = (
            f"XᵀX needs {need:.0f} MiB while it is gathered and {4 * p * p / _MIB:.0f} in a fit, of {limits}"
        )
        return Sharing(False, reason=reason, **found)
    in_memory = not place(nnz, config.out_of_core, config.in_memory_mb).out_of_core
    of_pass = pass_seconds(n, p, nnz, training)
    from_cells = from_statistics = 0.0
    for name, section in models.items():
        donors = _most_donors(config, dataset, n) if config.card(name).own_loadings else 0
        fits = gram_bytes(p, n_grams=max(donors, 1)) / _MIB
        for rank in config.ranks:
            # those that minibatches cannot fit are weighed by the autoencoders' defaults
            epochs = section.most_epochs() if hasattr(section, "most_epochs") else 100
            size = getattr(section, "batch_size", 512)
            one = fit_seconds(n, p, nnz, rank, epochs, donors, training, size)
            ways = [one["sparse"]] if in_memory else []
            ways += [of_pass + one["gram"]] if fits <= host_gram_mb(section.gram_memory_mb) else []
            ways += [one["minibatch"]] if getattr(section, "solver", None) == "auto" else []
            alone = min(ways, default=of_pass + one["gram"])
            from_cells += alone * len(config.seeds)
            # one matrix for each donor that does not fit is not made, and the cells are fitted
            shared = one["gram"] if fits <= config.statistics.memory_mb else alone
            from_statistics += shared * len(config.seeds)
    # a rank selection makes the pass anyway
    there = bool(config.rank_selection.by_hidden_genes)
    seconds = {
        "pass": 0.0 if there else pass_seconds(n, p, nnz, gathering),
        "jobs": JOB_SECONDS * (1 if there else config.statistics.shards + 1),
        "from_statistics": from_statistics,
        "from_cells": from_cells,
    }
    saved = from_cells - seconds["pass"] - seconds["jobs"] - from_statistics
    shared = saved >= LEAST_SAVED
    reason = (
        f"estimated for {n_fits} fits: {from_cells - saved:.3g} s with a pass for all, {from_cells:.3g} s "
        f"without; a pass is made where it saves {LEAST_SAVED:.0f} s"
    )
    return Sharing(shared, reason=reason, seconds=seconds, **found)


def _size_of_source(section: Any, filtered: str | Path) -> Size | None:
    """Size of what a dataset begins from."""
    if section.simulate is not None:
        made = section.simulate
        # genes that a cell of so many counts would show, were all genes as frequent: no cell shows more
        shown = made.n_genes * -math.expm1(-made.mean_counts / made.n_genes)
        return Size(made.n_cells, made.n_genes, int(made.n_cells * shown))
    if Path(section.path).exists():
        return size_of_file(section.path, section.matrix.source)
    return size_before(filtered)


def _kept(genes: Any, size: Size | None) -> Size | None:
    """Size with the genes that are chosen, taken to be as dense as all; None where it is not known."""
    if size is None or not size.n_nonzeros or not size.n_genes:
        return None
    if genes.select != "hvg" or genes.n_top >= size.n_genes:
        return size
    share = genes.n_top / size.n_genes
    return size._replace(n_genes=genes.n_top, n_nonzeros=int(size.n_nonzeros * share))


def _most_donors(config: Config, dataset: str, n_cells: int) -> int:
    """As many donors as there can be of `min_cells_per_donor` cells each."""
    section = config.datasets[dataset]
    if section.simulate is not None:
        return section.simulate.n_donors
    return max(2, n_cells // section.min_cells_per_donor)
