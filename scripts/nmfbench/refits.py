"""Fits of a model beside the one that is trained: to some of the cells, or to other values of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nmfbench.endings import Interrupted
from nmfbench.errors import InputError, NotApplicable
from nmfbench.train import fit_to, given_beside, make_model

if TYPE_CHECKING:
    import pandas as pd

    from nmfbench.data.filtered import FilteredCounts
    from nmfbench.job import Job
    from nmfbench.models.card import ModelCard


class Fits:
    """Fits of one model, each without some cells, that embed all of them."""

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
    ) -> None:
        self.data, self.card, self.normalisation = data, card, normalisation
        self.columns, self.fit, self.run, self.scratch = condition_columns, fit, run, scratch
        self._values = values

    @property
    def values(self):
        """All cells as the model takes them, in memory; read once."""
        from nmfbench.data.filtered import load_normalised

        if self._values is None:
            self._values = load_normalised(self.data.path, **self.normalisation)
        return self._values

    def embed_without(self, group: int, known: np.ndarray, statistics: str | None) -> np.ndarray:
        """Embedding of all cells (cells x k, float32) by a fit to those that are `known`."""
        model = self.fit_without(group, known, statistics)
        return np.vstack(list(self._embed(model, statistics is not None)))

    def fit_without(self, group: int, known: np.ndarray, statistics: str | None) -> Any:
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
                _fit_statistics(model, statistics, self.data, self.normalisation, around)
            else:
                self._fit_cells(model, known, around)
            if model.stop_reason_ == "interrupted":
                raise Interrupted("its state is kept; run the same command again to go on")
        return model

    def _fit_cells(self, model: Any, known: np.ndarray, around: dict[str, Any]) -> None:
        from nmfbench.rows.memory import InMemoryRows

        data = self.data
        conditions = self._labels(known) if self.card.conditional else None
        labels: dict[str, Any] = {"conditions": conditions, "strata": data.label("cell_type")[known]}
        if getattr(model, "multigroup", False):
            labels["groups"] = self._labels(known).astype(str).agg(" ".join, axis=1)
        fit_to(model, InMemoryRows(self.values[known]), given_beside(self.card, data, labels, known), around)

    def _labels(self, known: np.ndarray) -> pd.DataFrame:
        import pandas as pd

        # the codes of donors that were left out stand for nobody
        columns = {name: self.data.label(name)[known].remove_unused_categories() for name in self.columns}
        return pd.DataFrame(columns)

    def _embed(self, model: Any, on_disk: bool) -> Iterator[np.ndarray]:
        from nmfbench.models.autoencoder.embed import times_blocks
        from nmfbench.rows.disk import FilteredRows
        from nmfbench.rows.memory import BLOCK_ROWS

        if on_disk:
            rows = FilteredRows(self.data, self.normalisation)
            for _, H in times_blocks(model.components_, rows, BLOCK_ROWS):
                yield np.asarray(H, dtype=np.float32)
            return
        factors = model.n_components_
        for start in range(0, self.data.n_cells, BLOCK_ROWS):
            try:
                H = model.transform(self.values[start : start + BLOCK_ROWS])
            except InputError as error:
                raise NotApplicable(
                    f"{type(model).__name__}: cells of other donors", error.expected, error.got, error.remedy
                ) from error
            # constant patterns of cells stand before the factors and are not scored
            yield np.asarray(H[:, H.shape[1] - factors :], dtype=np.float32)


def _fit_statistics(model, path: str, data: FilteredCounts, normalisation, around: dict[str, Any]) -> None:
    from nmfbench.statistics.store import load

    statistics = load(path, memory_map=True)
    wanted = {"fingerprint": data.fingerprint, "normalisation": dict(normalisation)}
    for name, value in wanted.items():
        if getattr(statistics.layout, name) != value:
            raise InputError(
                f"{path}: {name}", str(value), str(getattr(statistics.layout, name)),
                "gather the statistics of the present data and settings: delete the file and run again",
            )  # fmt: skip
    model.fit_statistics(statistics.of_present(), **around)
