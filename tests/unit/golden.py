"""A few numbers of every stage at a small size, as ``tests/golden.yaml`` keeps them.

``python tests/unit/golden.py`` brings it up to date, which is right after a stage's REVISION was raised.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from scipy import sparse

FILE = Path(__file__).parents[1] / "golden.yaml"
DESIGN = {"n_cells": 420, "n_genes": 200, "n_cell_types": 4, "n_donors": 3, "n_small_donors": 1, "seed": 1}
NORMALISATION = {"target_sum": 1e4, "log1p": True}
#: Models whose numbers are those of a package beside the default install, or of a file.
BESIDE = ("harmony", "nmf_harmony", "scvi", "linear_scvi", "external")
STAGES: dict[str, Callable[[], dict[str, float]]] = {}


def stage(function: Callable[[], dict[str, float]]) -> Callable[[], dict[str, float]]:
    """Register the numbers of a stage under the name of its rule."""
    STAGES[function.__name__] = cache(function)
    return STAGES[function.__name__]


def revision_of(name: str) -> int:
    """The number that is raised where a stage's numbers move."""
    from nmfbench.models import MODELS, get_card
    from nmfbench.revisions import REVISIONS

    kind = name.removeprefix("train_")
    if kind == "consensus":
        from nmfbench.factors.card import CARD

        return CARD.revision
    return get_card(kind).revision if kind in MODELS else REVISIONS[name]


def stages() -> Iterator[str]:
    """Names of all stages that have numbers here: rules, and the training of every model."""
    from nmfbench.models import MODELS

    yield from STAGES
    yield from (f"train_{kind}" for kind in MODELS if kind not in BESIDE)


def numbers(name: str) -> dict[str, float]:
    """The numbers of a stage."""
    found = STAGES[name]() if name in STAGES else _trained(name.removeprefix("train_"))
    return {key: float(f"{value:.8g}") for key, value in found.items()}


@cache
def _folder() -> Path:
    from nmfbench.data import filter_donors as filter_file
    from nmfbench.data import simulate_atlas

    _folder.kept = tempfile.TemporaryDirectory()
    folder = Path(_folder.kept.name)
    simulate_atlas(folder / "source.h5ad", min_cells=40, **DESIGN)
    filter_file(
        folder / "source.h5ad", folder / "filtered.h5ad", folder / "donors.tsv", min_cells_per_donor=40,
        condition_columns=["donor_id"],
    )  # fmt: skip
    return folder


@cache
def _embedding() -> tuple[np.ndarray, pd.DataFrame]:
    """Cells of four types and three donors, 5 factors, made without any model."""
    rng = np.random.default_rng(3)
    types, donors = np.arange(240) % 4, np.arange(240) // 4 % 3
    H = rng.gamma(1.0, 1.0, (240, 5)) + 2.0 * np.eye(5)[types] + 0.3 * donors[:, None]
    obs = pd.DataFrame({"cell_type": [f"t{i}" for i in types], "donor_id": [f"d{i}" for i in donors]})
    return H.astype(np.float32), obs.astype("category")


@cache
def _neighbours() -> Any:
    from nmfbench.metrics.neighbours import find_neighbour_tables

    return find_neighbour_tables(_embedding()[0], {"z_scored": 25, "as_given": 30})


@stage
def simulate_dataset() -> dict[str, float]:
    import anndata

    raw = anndata.read_h5ad(_folder() / "source.h5ad").raw.X
    return {"nonzeros": raw.nnz, "counts": raw.sum(), "squares": (raw.data.astype(float) ** 2).sum()}


@stage
def filter_donors() -> dict[str, float]:
    from nmfbench.data import read_filtered

    data = read_filtered(_folder() / "filtered.h5ad")
    donors = pd.read_csv(_folder() / "donors.tsv", sep="\t")
    sizes = {"cells": data.n_cells, "genes": data.n_genes, "nonzeros": data.nnz}
    return sizes | {"donors_kept": donors["kept"].astype(bool).sum()}


@stage
def gather_statistics() -> dict[str, float]:
    from nmfbench.statistics.shards import gather_file

    gather_file(
        _folder() / "filtered.h5ad", _folder() / "shard.h5", shard=0, n_shards=2, memory_mb=64, passes=1,
        normalisation=NORMALISATION, condition_columns=["donor_id"], donor_grams=True,
    )  # fmt: skip
    return _of_arrays(_folder() / "shard.h5")


@stage
def shuffle_cells() -> dict[str, float]:
    from nmfbench.rows.shuffle import shuffle_cells as shuffle

    shuffle(_folder() / "filtered.h5ad", _folder() / "shuffled.h5ad", by_type=True)
    return _of_arrays(_folder() / "shuffled.h5ad")


@stage
def find_neighbours() -> dict[str, float]:
    tables = _neighbours()
    return {name: float(table.distances.astype(float).sum()) for name, table in tables.items()}


@stage
def cluster_embedding() -> dict[str, float]:
    from nmfbench.metrics.clustering import score_clusters as score

    scores = score(_clusters(), _embedding()[1]["cell_type"])
    return {"clusters": scores["n_clusters"].mean(), "ARI": scores["ARI"].mean()}


@cache
def _clusters() -> pd.DataFrame:
    from nmfbench.metrics.clustering import leiden_labels, neighbour_graph

    graph = neighbour_graph(_embedding()[0], 10, neighbours=_neighbours()["z_scored"])
    return leiden_labels(graph, seeds=[0, 1], resolution=0.8, n_iterations=2, flavor="igraph")


@stage
def score_clusters() -> dict[str, float]:
    from nmfbench.metrics.clustering import score_clusters as score

    given = pd.DataFrame({"0": np.arange(240) % 5, "1": np.arange(240) // 4 % 4})
    scores = score(given, _embedding()[1]["cell_type"])
    return {name: scores[name].mean() for name in ("ARI", "NMI")}


@stage
def classify_embedding() -> dict[str, float]:
    from nmfbench.metrics.classification import classify_and_count

    H, obs = _embedding()
    folds, _ = classify_and_count(
        H, obs["cell_type"], obs["donor_id"], cv_seed=42, n_folds=3, min_cells_per_class=10,
        classifiers=["logistic_regression", "knn"], subsample=None, neighbours=_neighbours()["z_scored"],
    )  # fmt: skip
    return {name: folds[name].mean() for name in ("F1", "AUROC", "Accuracy")}


@stage
def score_integration() -> dict[str, float]:
    from nmfbench.metrics.integration import integration_scores

    H, obs = _embedding()
    table = integration_scores(
        H, obs["cell_type"], obs["donor_id"], _neighbours()["as_given"], entropy_neighbours=25
    )
    values = table.set_index("metric")["value"].astype(float).dropna()
    return {str(name): float(value) for name, value in values.items()}


@stage
def describe_factors() -> dict[str, float]:
    from nmfbench.factors.association import Label, Nested, label_associations, variance_components
    from nmfbench.factors.moments import sum_moments
    from nmfbench.factors.scores import explained_variance, gene_scores, spectra

    H, obs = _embedding()
    H = H.astype(float)
    counts = np.random.default_rng(4).poisson(H @ np.random.default_rng(5).gamma(0.5, 1.0, (5, 30)))
    genes = pd.Index([f"g{i}" for i in range(30)])
    moments = sum_moments([(sparse.csr_matrix(counts.astype(float)), H)], genes, 5, NORMALISATION)
    columns = [obs[name].cat for name in ("cell_type", "donor_id")]
    labels = [Label.of("", column.codes.to_numpy(), column.categories.to_numpy()) for column in columns]
    parts = [variance_components(h, Nested.of(*labels)) for h in H.T]
    return {
        "gene_scores": float(np.abs(gene_scores(moments)).sum()),
        "spectra": float(np.square(spectra(moments)).sum()),
        "explained": float(explained_variance(moments)["all"]),
        "eta2": float(sum(label_associations(h, labels[:1])[0]["eta2"] for h in H.T)),
        **{name: sum(part[name] for part in parts) for name in ("between_types", "between_donors")},
    }


@cache
def _described() -> Path:
    """A made-up fit of the simulated cells, and what is said of its factors."""
    from nmfbench.data import read_filtered
    from nmfbench.factors.describe import describe_factors as describe
    from nmfbench.results import write_result

    data, rng = read_filtered(_folder() / "filtered.h5ad"), np.random.default_rng(5)
    types = pd.factorize(np.asarray(data.label("cell_type")), sort=True)[0]
    H = (rng.gamma(0.5, 1.0, (data.n_cells, 4)) + np.eye(4)[types]).astype(np.float32)
    W = rng.gamma(0.3, 1.0, (data.n_genes, 4)).astype(np.float32)
    record = {"model": "made_up", "display_name": "made up", "rank": 4, "seed": 0, "uses_labels": ""}
    write_result(
        _folder() / "made_up.h5ad", obs=data.obs, var=data.var, obsm={"H": H}, varm={"W_x": W},
        uns={"model_name": "x"}, record=record | {"embedding": "H"},
    )  # fmt: skip
    names = {"factors": "factors.tsv", "summary": "summary.tsv", "labels_table": "labels.tsv"}
    names |= {"pairs": "pairs.tsv.gz", "top_genes": "genes.tsv", "programs": "programs.h5ad"}
    describe(
        _folder() / "filtered.h5ad", _folder() / "made_up.h5ad", labels=["cell_type", "donor_id"],
        normalisation=NORMALISATION, **{key: _folder() / name for key, name in names.items()},
    )  # fmt: skip
    return _folder()


@stage
def enrich_factors() -> dict[str, float]:
    import anndata

    from nmfbench.factors.enrichment import enrich

    programs = anndata.read_h5ad(_described() / "programs.h5ad")
    symbols = programs.var["symbol"].tolist()
    sets = {"first": symbols[:12], "second": symbols[12:40], "spread": symbols[::9]}
    lines = ["\t".join([name, "made up", *genes]) for name, genes in sets.items()]
    (_described() / "sets.gmt").write_text("\n".join(lines))
    found = enrich(programs, _described() / "sets.gmt", method="ulm")
    return {"score": found["score"].abs().sum(), "log_p": -np.log10(found["p"]).sum()}


@stage
def train_consensus() -> dict[str, float]:
    from nmfbench.factors.consensus import find_consensus

    rng = np.random.default_rng(6)
    true = rng.gamma(0.3, 1.0, (60, 4))
    fits = [true[:, rng.permutation(4)] * rng.gamma(20, 0.05, (60, 4)) for _ in range(6)]
    found = find_consensus(fits)
    return {"programs": np.linalg.norm(found.programs), "stability": found.stability}


@stage
def collect_tables() -> dict[str, float]:
    from nmfbench.metrics.classification import classify_and_count
    from nmfbench.tables.folds import over_folds

    H, obs = _embedding()
    folds, _ = classify_and_count(
        H, obs["cell_type"], obs["donor_id"], cv_seed=42, n_folds=3, min_cells_per_class=10,
        classifiers=["logistic_regression", "knn"], subsample=None, neighbours=_neighbours()["z_scored"],
    )  # fmt: skip
    run = {"model": "m", "rank": 5, "seed": 0, "label": "cell_type", "cv_seed": 42}
    table = over_folds(folds.assign(**run))
    return {f"{row.metric} {key}": getattr(row, key) for row in table.itertuples() for key in ("std", "n")}


@stage
def compute_umap() -> dict[str, float]:
    from nmfbench.config import load_config
    from nmfbench.metrics.projection import compute_umap as lay_out

    H, obs = _embedding()
    settings = load_config({"datasets": {"d": {"simulate": {}}}}).umap.model_dump()
    table = lay_out(
        H, n_neighbours=10, strata=obs["cell_type"], neighbours=_neighbours()["z_scored"], **settings
    )
    # The layout itself follows the last bits: only its size holds on every machine.
    return {"cells": len(table)}


def _of_arrays(path: Path) -> dict[str, float]:
    """Sums of what an HDF5 file holds in floating point."""
    import h5py

    found: dict[str, float] = {}

    def add(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.dtype.kind == "f" and item.size:
            found[name] = float(np.asarray(item[()], dtype=np.float64).sum())

    with h5py.File(path, "r") as file:
        file.visititems(add)
    return found


def _trained(kind: str) -> dict[str, float]:
    from nmfbench.models import get_card
    from test_models_contract import data_for, small

    X, given = data_for(get_card(kind))
    model = small(kind).fit(X, **given)
    W, H = model.components_.astype(float), model.embedding_.astype(float)
    return {"objective": model.objective_, "norm_W": np.linalg.norm(W), "norm_H": np.linalg.norm(H)}


def main() -> None:
    """Write the file: stages that are new or of a raised revision; the others stay to the last digit."""
    values = yaml.safe_load(FILE.read_text())
    values = {name: kept for name, kept in values.items() if name in set(stages())}
    for name in stages():
        if values.get(name, {}).get("revision") != revision_of(name):
            values[name] = {"revision": revision_of(name), **numbers(name)}
    FILE.write_text(
        "# Made by `python tests/unit/golden.py`: what each stage comes to at a small size.\n"
        + yaml.safe_dump(values, sort_keys=False)
    )


if __name__ == "__main__":
    sys.exit(main())
