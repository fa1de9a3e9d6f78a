"""scVI, and its form with a linear decoder, by scvi-tools."""

from __future__ import annotations

import logging
from types import ModuleType
from typing import Any

import numpy as np

from nmfbench.components import variable_genes
from nmfbench.device import resolve_device
from nmfbench.models.baseline import card
from nmfbench.models.card import OnDevice
from nmfbench.models.given import GivenEmbedding
from nmfbench.models.parameters import parameters
from nmfbench.packages import SCVI_TOOLS

log = logging.getLogger(__name__)


def _scvi_tools() -> ModuleType:
    try:
        import scvi
    except ImportError as error:
        raise SCVI_TOOLS.absent("scvi or linear_scvi") from error
    return scvi


class _Variational(GivenEmbedding):
    """What both share: counts in, means of the posterior of each cell out."""

    def _embed(self, X, donors, types) -> np.ndarray:
        scvi = _scvi_tools()
        import anndata

        device = resolve_device(self.device)
        self.device_ = str(device)
        X = X[:, _chosen(X, self.n_genes)].astype(np.float32)
        cells = anndata.AnnData(X)
        use = self.by_donor and donors is not None
        if use:
            cells.obs["donor"] = np.asarray(donors).astype(str)
        self.uses_conditions_ = use
        scvi.settings.seed = self.seed_
        model_class = self._model_class(scvi)
        model_class.setup_anndata(cells, batch_key="donor" if use else None)
        model = model_class(
            cells,
            n_latent=self.n_components,
            n_hidden=self.n_hidden,
            n_layers=self.n_layers,
            gene_likelihood=self.likelihood,
        )
        model.train(
            max_epochs=self.max_iter,
            accelerator="gpu" if device.type == "cuda" else str(device.type),
            early_stopping=self.early_stopping,
            train_size=0.9 if self.early_stopping else 1.0,
            enable_progress_bar=False,
        )
        log.info("%s: %d epochs on %s", type(self).__name__, model.trainer.current_epoch, device)
        return model.get_latent_representation()

    def _model_class(self, scvi: ModuleType) -> Any:
        raise NotImplementedError


def _chosen(X, n_genes: int | None) -> np.ndarray:
    """The most variable genes of counts, chosen on their log-normalised values."""
    if n_genes is None or n_genes >= X.shape[1]:
        return np.arange(X.shape[1])
    totals = np.asarray(X.sum(axis=1), dtype=np.float64).ravel()
    scale = np.divide(1e4, totals, out=np.zeros_like(totals), where=totals > 0)
    normalised = X.astype(np.float32).tocsr(copy=True)
    of_cell = np.repeat(scale, np.diff(normalised.indptr)).astype(np.float32)
    normalised.data = np.log1p(normalised.data * of_cell)
    return variable_genes(normalised, n_genes)


@parameters(card.ScVI, OnDevice)
class ScVI(_Variational):
    """scVI (Lopez et al. 2018, doi:10.1038/s41592-018-0229-2), as scvi-tools trains it.

    `fit` takes counts. The embedding is the posterior mean of each cell; it may be negative.

    {parameters}
    """

    _embedding_name = "X_scvi"

    def _model_class(self, scvi: ModuleType) -> Any:
        return scvi.model.SCVI


@parameters(card.LinearScVI, OnDevice)
class LinearScVI(_Variational):
    """Linearly decoded scVI (Svensson et al. 2020, doi:10.1093/bioinformatics/btaa169), by scvi-tools.

    `fit` takes counts. The embedding is the posterior mean of each cell; it may be negative.

    {parameters}
    """

    _embedding_name = "X_linear_scvi"

    def _model_class(self, scvi: ModuleType) -> Any:
        return scvi.model.LinearSCVI
