"""Fits of a model beside the one that is trained: to some of the cells, or to other values of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nmfbench.endings import Interrupted
from nmfbench.errors import InputError, NotApplicable
from nmfbench.rows.memory import BLOCK_ROWS, InMemoryRows
from nmfbench.rows.scaled import gene_factors, gene_moments, scale_columns, scaled_rows
from nmfbench.train import fit_to, given_beside, make_model

if TYPE_CHECKING:
    import pandas as pd

    from nmfbench.data.filtered import FilteredCounts
    from nmfbench.job import Job
    from nmfbench.models.card import ModelCard


@dataclass(frozen=True)
class Refit:
    """An estimator, fitted to some of the cells.

    Attributes
    ----------
    model : object
        It takes the cells' values with each gene multiplied by `factors`.
    factors : (genes,) array or None
        From the cells that it was fitted to, and no others. None: the values as they are.
    scales_itself : bool
        Whether the model is given counts, and scales what it makes of them.
    """

    model: Any
    factors: np.ndarray | None
    scales_itself: bool

    def taken(self, values: Any) -> Any:
        """Values, cells x genes, as the model takes them."""
        if self.factors is None or self.scales_itself:
            return values
        return scale_columns(values, self.factors)

    def expected_values(self, taken: Any, rows: slice) -> np.ndarray:
        """What the model expects of some cells, on the scale of the values before; cells x genes."""
        found = self.model.expected_values(taken, rows)
        return found if self.factors is None else found / self.factors


class Fits:
    """Fits of one model, each without some cells, that embed all of them.

    Parameters
    ----------
    data : FilteredCounts
    card : ModelCard
    normalisation : mapping
        From counts to normalised values.
    condition_columns : sequence of str
    fit : mapping
        ``rank``, ``settings``, ``seed`` and ``device``.
    run : Job
    scratch : Path
        Folder of the checkpoints.
    values : CSR matrix, optional
        All cells as the model takes them, in place of those in the file.
    gene_scaling : {"none", "unit_variance", "sqrt"}
        As in :func:`nmfbench.train.train`; the standard deviations are those of the cells that are fitted.
    """

    def __init__(
        self,
        data: FilteredCounts,
        card: ModelCard,
        normalisation: Mapping[str, Any],
        condition_columns: Sequence[str],
        fit: Mapping[str, Any],
        run: Job,
        scratch: Path,
        values: Any = None,
        gene_scaling: str = "none",
    ) -> None:
        self.data, self.card, self.normalisation = data, card, dict(normalisation)
        scales = card.input == "normalised" or card.normalises
        self.gene_scaling = gene_scaling if scales else "none"
        self.columns, self.fit, self.run, self.scratch = condition_columns, fit, run, scratch
        self._values = values

    @property
    def values(self):
        """All cells as the model takes them, in memory; read once."""
        from nmfbench.data import AS_COUNTED
        from nmfbench.data.filtered import load_normalised

        if self._values is None:
            given = AS_COUNTED if self.card.input == "counts" else self.normalisation
            self._values = load_normalised(self.data.path, **given)
        return self._values

    def embed_without(self, group: int, known: np.ndarray, statistics: str | None) -> np.ndarray:
        """Embedding of all cells (cells x k, float32) by a fit to those that are `known`."""
        fitted = self.fit_without(group, known, statistics)
        return np.vstack(list(self._embed(fitted, statistics is not None)))

    def fit_without(self, group: int, known: np.ndarray, statistics: str | None) -> Refit:
        """The estimator, fitted to the cells that are `known`."""
        from threadpoolctl import threadpool_limits

        n = int(known.sum())
        if self.fit["rank"] > min(n, self.data.n_genes):
            raise InputError(
                f"{self.data.path}: rank {self.fit['rank']} without group {group} of the donors",
                f"a rank of at most {min(n, self.data.n_genes)}", f"{n} cells x {self.data.n_genes} genes",
                "lower `ranks`, or raise donor_transfer.groups so that fewer cells are left out",
            )  # fmt: skip
        model = make_model(
            self.card, self.fit["rank"], self.fit["settings"], self.fit["seed"], self.fit["device"]
        )
        around = {"checkpoint": self.scratch / f"group-{group}", "progress": False}
        around |= {"should_stop": self.run.stop_requested}
        around["checkpoint"].parent.mkdir(parents=True, exist_ok=True)
        with threadpool_limits(self.run.threads):
            if statistics is not None:
                factors = self._fit_statistics(model, statistics, around)
            else:
                factors = self._fit_cells(model, known, around)
            if model.stop_reason_ == "interrupted":
                raise Interrupted("its state is kept; run the same command again to go on")
        return Refit(model, factors, self.card.normalises)

    def _fit_cells(self, model: Any, known: np.ndarray, around: dict[str, Any]) -> np.ndarray | None:
        from nmfbench.data.filtered import normalise_block

        data = self.data
        conditions = self._labels(known) if self.card.conditional else None
        labels: dict[str, Any] = {"conditions": conditions, "strata": data.label("cell_type")[known]}
        if getattr(model, "multigroup", False):
            labels["groups"] = self._labels(known).astype(str).agg(" ".join, axis=1)
        values, factors = self.values[known], None
        if self.gene_scaling != "none":
            normalised = self.card.normalises
            scaled = normalise_block(values, **self.normalisation) if normalised else values
            factors = gene_factors(
                self.gene_scaling, *gene_moments(InMemoryRows(scaled)), len(values.indptr) - 1
            )
            if normalised:
                model.gene_factors = factors
            else:
                values = scale_columns(values, factors)
        fit_to(model, InMemoryRows(values), given_beside(self.card, data, labels, known), around)
        return factors

    def _fit_statistics(self, model: Any, path: str, around: dict[str, Any]) -> np.ndarray | None:
        from nmfbench.models.autoencoder.from_statistics import scaled_in_memory
        from nmfbench.statistics.store import load

        statistics = load(path, memory_map=True)
        wanted = {"fingerprint": self.data.fingerprint, "normalisation": self.normalisation}
        for name, value in wanted.items():
            if getattr(statistics.layout, name) != value:
                raise InputError(
                    f"{path}: {name}", str(value), str(getattr(statistics.layout, name)),
                    "gather the statistics of the present data and settings: delete the file and run again",
                )  # fmt: skip
        present, factors = statistics.of_present(), None
        if self.gene_scaling != "none":
            moments = present.gene_sums, present.gene_squares
            factors = gene_factors(self.gene_scaling, *moments, present.n_cells)
            present = scaled_in_memory(path, present, factors, model.gram_memory_mb)
        model.fit_statistics(present, **around)
        return factors

    def _labels(self, known: np.ndarray) -> pd.DataFrame:
        import pandas as pd

        # the codes of donors that were left out stand for nobody
        columns = {name: self.data.label(name)[known].remove_unused_categories() for name in self.columns}
        return pd.DataFrame(columns)

    def _embed(self, fitted: Refit, on_disk: bool) -> Iterator[np.ndarray]:
        from nmfbench.rows.disk import FilteredRows

        model = fitted.model
        if on_disk:
            rows: Any = FilteredRows(self.data, self.normalisation)
            if fitted.factors is not None:
                rows = scaled_rows(rows, fitted.factors)
            for _, H in model.scored_blocks(rows):
                yield np.asarray(H, dtype=np.float32)
            return
        factors = model.n_components_
        for start in range(0, self.data.n_cells, BLOCK_ROWS):
            try:
                H = model.transform(fitted.taken(self.values[start : start + BLOCK_ROWS]))
            except InputError as error:
                raise NotApplicable(
                    f"{type(model).__name__}: cells of other donors", error.expected, error.got, error.remedy
                ) from error
            # constant patterns of cells stand before the factors and are not scored
            yield np.asarray(H[:, H.shape[1] - factors :], dtype=np.float32)
