"""Scores of an embedding: what they are called, what they range over and which way is good.

A score is one :class:`Metric` record in :data:`METRICS`; tables and figures read
names, ranges and directions from there. The functions live in
:mod:`~nmfbench.metrics.clustering` and :mod:`~nmfbench.metrics.classification`
and are loaded by :func:`load_function` when they are called for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

Direction = Literal["higher", "lower"]


@dataclass(frozen=True)
class Metric:
    """One score of an embedding against a label.

    Attributes
    ----------
    name : str
        Name in the tidy tables and on figures.
    source : str
        ``module:function`` that computes it.
    mean_column, std_column : str
        Its two columns in the published CSV.
    minimum, maximum : float
        Values it can take.
    chance : str
        What it is for an embedding that knows nothing of the label.
    identity, batch : {"higher", "lower"}
        Which way is good for a label to keep apart (cell type), and for a label to mix (donor).
    description : str
        One sentence for captions.
    """

    name: str
    source: str
    mean_column: str
    std_column: str
    minimum: float
    maximum: float
    chance: str
    identity: Direction
    batch: Direction
    description: str

    @property
    def family(self) -> Literal["clustering", "classification"]:
        """Module the score comes from, and so the CSV it is published in."""
        return self.source.partition(":")[0].rpartition(".")[2]  # type: ignore[return-value]


_CLUSTER = "nmfbench.metrics.clustering:score_clusters"
_CLASSIFY = "nmfbench.metrics.classification:classify"

# name, source, its two columns in the CSV, minimum, value by chance, description
_TABLE = (
    (
        *("ARI", _CLUSTER, "ARI", "ARI Std", -0.5, "0 on average"),
        "Adjusted Rand index of Leiden clusters and label: pairs of cells that agree, corrected for chance.",
    ),
    (
        *("NMI", _CLUSTER, "NMI", "NMI Std", 0.0, "a little above 0, more so with many clusters"),
        "Mutual information of Leiden clusters and label, over the arithmetic mean of their entropies.",
    ),
    (
        *("F1", _CLASSIFY, "MeanFoldF1", "F1_std", 0.0, "about 1 / number of classes"),
        "F1 of held-out cells, each class counting the same whatever its size.",
    ),
    (
        *("AUROC", _CLASSIFY, "MeanFoldAUROC", "AUROC_std", 0.0, "0.5"),
        "Area under the ROC curve of each class against the rest, averaged over classes.",
    ),
    (
        *("Precision", _CLASSIFY, "MeanFoldPrecision", "Precision_std", 0.0, "about 1 / number of classes"),
        "Share of the cells predicted as a class that belong to it, averaged over classes.",
    ),
    (
        *("Accuracy", _CLASSIFY, "MeanFoldAccuracy", "Accuracy_std", 0.0, "the share of the largest class"),
        "Share of held-out cells predicted right.",
    ),
    (
        *("Recall", _CLASSIFY, "MeanFoldRecall", "Recall_std", 0.0, "1 / number of classes"),
        "Share of the cells of a class that are found, averaged over classes (balanced accuracy).",
    ),
)

METRICS: dict[str, Metric] = {
    name: Metric(name, source, mean, std, low, 1.0, chance, "higher", "lower", description)
    for name, source, mean, std, low, chance, description in _TABLE
}

CLUSTERING_METRICS: tuple[str, ...] = tuple(n for n, m in METRICS.items() if m.family == "clustering")
CLASSIFICATION_METRICS: tuple[str, ...] = tuple(n for n, m in METRICS.items() if m.family == "classification")


def load_function(metric: Metric) -> Callable[..., Any]:
    """Import the function that computes a metric."""
    module, _, function = metric.source.partition(":")
    return getattr(import_module(module), function)
