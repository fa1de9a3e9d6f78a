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

from nmfbench.packages import SCIB_METRICS, Package

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
    label : str
        The one label that an integration score is of; empty for a score of any label.
    part : {"bio", "batch", ""}
        The aggregate that the score has a part in.
    title : str
        Heading of its panel in the figures of scores; empty for a score that is not drawn there.
    chance_value : float or None
        Where `chance` is one number other than 0, for a line in the figures.
    package : Package or None
        What has to be installed for this score alone, which is then computed only where it is asked for.
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
    label: str = ""
    part: str = ""
    title: str = ""
    chance_value: float | None = None
    package: Package | None = None

    @property
    def family(self) -> Literal["clustering", "classification", "integration"]:
        """Module the score comes from, and so the CSV it is published in, if it is."""
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

# name, title and chance of the scores that figures draw, in the order of their panels
_DRAWN = (
    ("ARI", "adjusted Rand index", None),
    ("NMI", "normalised mutual info.", None),
    ("F1", "macro F1", None),
    ("AUROC", "macro AUROC", 0.5),
)
_TITLES = {name: {"title": title, "chance_value": chance} for name, title, chance in _DRAWN}

METRICS: dict[str, Metric] = {
    name: Metric(
        name, source, mean, std, low, 1.0, chance, "higher", "lower", description, **_TITLES.get(name, {})
    )
    for name, source, mean, std, low, chance, description in _TABLE
}

_INTEGRATE = "nmfbench.metrics.integration:integration_scores"

# name, label, aggregate it has a part in, its worst or chance value, description; higher is always better
_INTEGRATION = (
    (
        *("iLISI", "donor_id", "batch", "0: neighbours of one donor"),
        "Median effective number of donors among the neighbours of a cell, scaled by their number.",
    ),
    (
        *("CiLISI", "donor_id", "", "0: neighbours of one donor"),
        "The same inside each cell type, scaled by the donors that have it, mean over cells.",
    ),
    (
        *("BRAS", "donor_id", "batch", "0: donors apart inside each type"),
        "One minus the size of the silhouette of donors inside cell types, against all other donors.",
    ),
    (
        *("PCR", "donor_id", "batch", "0: no less than before"),
        "How much less of the variance lies between donors than in principal components of the cells.",
    ),
    (
        *("graph_connectivity", "donor_id", "batch", "near 0"),
        "Share of a cell type's cells that its neighbour graph holds together, mean over types.",
    ),
    (
        *("batch_entropy", "donor_id", "", "0: neighbours of one donor"),
        "Entropy of the donors among the neighbours of a cell over that of equal shares.",
    ),
    (
        *("cLISI", "cell_type", "bio", "0: all types among the neighbours"),
        "One minus the scaled median effective number of cell types among the neighbours of a cell.",
    ),
    (
        *("ASW_label", "cell_type", "bio", "0.5"),
        "Mean silhouette of cell types, scaled to 0 to 1.",
    ),
    (
        *("isolated_labels", "cell_type", "bio", "0.5"),
        "The same of the cell types that are in the fewest donors.",
    ),
    (
        *("kSIM", "cell_type", "", "the share of the type among neighbours"),
        "Share of cells of whose 25 nearest at least 90 % are of their type.",
    ),
    (
        *("scGraph", "cell_type", "", "0"),
        "Agreement of the distances between cell types with those in single donors.",
    ),
    (
        *("kBET", "donor_id", "batch", "0: no cell's neighbours have the donors of its type"),
        "Share of a cell type's cells among whose neighbours donors are as in the type, mean over types.",
    ),
)
_PACKAGES = {"kBET": SCIB_METRICS}

METRICS |= {
    name: Metric(
        *(name, _INTEGRATE, "", "", -1.0 if name == "scGraph" else 0.0, 1.0, chance, "higher", "higher"),
        *(description, label, part),
        package=_PACKAGES.get(name),
    )
    for name, label, part, chance, description in _INTEGRATION
}

INTEGRATION_METRICS: tuple[str, ...] = tuple(n for n, m in METRICS.items() if m.family == "integration")
#: Those that are computed where the config names none.
DEFAULT_INTEGRATION_METRICS: tuple[str, ...] = tuple(
    name for name in INTEGRATION_METRICS if METRICS[name].package is None
)
CLUSTERING_METRICS: tuple[str, ...] = tuple(n for n, m in METRICS.items() if m.family == "clustering")
CLASSIFICATION_METRICS: tuple[str, ...] = tuple(n for n, m in METRICS.items() if m.family == "classification")


def load_function(metric: Metric) -> Callable[..., Any]:
    """Import the function that computes a metric."""
    module, _, function = metric.source.partition(":")
    return getattr(import_module(module), function)
