"""Every figure, drawn with the hardest tables: no text is cut, none lies on another, none is tiny."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from nmfbench import figures
from nmfbench.figures.moments import moments_figure
from nmfbench.figures.spatial import spatial_figure
from nmfbench.metrics.matching import match_factors

TYPES = [
    "CD4-positive, alpha-beta memory T cell",
    "CD8-positive, alpha-beta cytokine secreting effector T cell",
    "plasmacytoid dendritic cell, human",
    "naive thymus-derived CD4-positive, alpha-beta T cell",
    "B cell / plasma cell (größer, β $1 and $2)",
    "клетка",
    "mature NK T cell",
    "neutrophil",
]
TYPES += [f"{name} {i}" for i in range(4) for name in TYPES]
MODELS = {"base_nmf": "Base_NMF", "ae_nmf": "AE_NMF", "cae_nmf1": "CAE_NMF1", "cae_nmf2": "CAE_NMF2"}
MODELS |= {f"variant_{i}": f"Variant β={i} published" for i in range(16)}


def some(n: int) -> dict[str, str]:
    return dict(list(MODELS.items())[:n])


def scores(n: int, seeds=(42,), missing=()) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    grid = itertools.product(some(n), seeds, ("cell_type", "donor_id"), ("ARI", "NMI", "F1", "AUROC"))
    table = pd.DataFrame(grid, columns=["model", "seed", "label", "metric"])
    table = table.assign(rank=80, std=0.02, n=10, status="ok", uses_labels="cell_type")
    table["value"] = rng.uniform(0.3, 0.95, len(table))
    table.loc[table["model"].isin(missing), ["value", "status"]] = [np.nan, "missing"]
    return table


def history(n: int, seeds=(1, 2), ranks=(20, 80)) -> pd.DataFrame:
    epoch = np.arange(1, 61)
    runs = [
        pd.DataFrame({"model": m, "rank": r, "seed": s, "epoch": epoch, "seconds": (i + s) * epoch,
                      "objective": 1e3 / epoch + i, "relative_error": 0.4 + 0.5 / epoch})
        for i, m in enumerate(some(n)) for s in seeds for r in ranks
    ]  # fmt: skip
    return pd.concat(runs)


def resources(n: int) -> pd.DataFrame:
    rows = [(None, None, "filter_donors", 12.3, 300.0, None, "cpu")]
    for i, model in enumerate(some(n)):
        device, gpu_peak = ("cuda: NVIDIA H200", 900.0) if i else ("cpu", None)
        rows.append((model, 80, "train", 10.0 ** (i % 5), 2e5, gpu_peak, device))
        rows += [(model, 80, "classify", 200.0, 700.0, None, "cpu")] * 2
    columns = ["model", "rank", "step", "seconds", "peak_mb", "gpu_peak_mb", "device"]
    return pd.DataFrame(rows, columns=columns).assign(threads=2)


def cells(n_types: int, n_donors: int = 24, n: int = 1500, k: int = 80):
    rng = np.random.default_rng(1)
    types, donors = rng.integers(0, n_types, n), rng.integers(0, n_donors, n)
    xy = rng.normal(0, 8, (n_types, 2))[types] + rng.normal(0, 1, (n, 2))
    names = [f"cell-{i}" for i in range(n)]
    obs = pd.DataFrame(
        {"cell_type": np.array(TYPES)[types], "donor_id": [f"TSP{d + 1}" for d in donors]}, index=names
    )
    H = rng.gamma(0.3, 1, (n, k)) + 3 * (types[:, None] == np.arange(k) % n_types)
    return pd.DataFrame({"cell": names, "UMAP1": xy[:, 0], "UMAP2": xy[:, 1]}), obs, H


def umap(n_types: int, **kwargs):
    coordinates, obs, _ = cells(n_types)
    return figures.umap_figure(coordinates, obs, "CAE_NMF1", **kwargs)


def factors(n_types: int, k: int, label: str = "cell_type"):
    _, obs, H = cells(n_types, k=k)
    return figures.factors_figure(figures.factor_table(H, obs[label]), "CAE_NMF1", label)


def in_space(n: int, k: int):
    rng = np.random.default_rng(0)
    where, H = rng.uniform(size=(n, 2)) * [4000, 1000], rng.gamma(1, size=(n, k))
    H[:, 0] = 1.0  # constant
    return spatial_figure(where, H, title="CAE_NMF1 · a title that is long " * 5)


def genes(n: int):
    rng = np.random.default_rng(0)
    mean = np.exp(rng.normal(-2, 3, n))
    names = ("observed_mean", "observed_variance", "fitted_mean", "fitted_variance")
    values = (mean, mean * (1 + mean), mean * rng.uniform(0.8, 1.2, n), 0.3 * mean**2)
    return moments_figure(dict(zip(names, values, strict=True)), "step 1,000, 5,000 cells")


def comparison(k: int, m: int, names=("CAE_NMF1, rank 8, seed 42", "AE_NMF, rank 80, seed 123")):
    rng = np.random.default_rng(0)
    truth = np.linspace(0.9, 0.4, max(k, m))[: max(k, m)] * np.eye(max(k, m))
    noise = rng.uniform(-0.3, 0.3, (2, max(k, m), max(k, m)))
    both = np.clip(truth + noise, -1, 1)[:, :k, :m]
    both[:, 0, :] = np.nan if k > 2 else both[:, 0, :]
    matches, pairs = match_factors(*both)
    return figures.comparison_figure(matches.assign(n_cells=592_317, n_genes=3_000), pairs, names)


CASES = {
    "scores-1": lambda: figures.scores_figure(scores(1), 80, some(1)),
    "scores-4-seeds": lambda: figures.scores_figure(scores(4, (1, 2, 3)), 80, some(4)),
    "scores-20-missing": lambda: figures.scores_figure(scores(20, missing=("variant_3",)), 80, some(20)),
    "scores-none": lambda: figures.scores_figure(scores(2), 7, some(2)),
    "tradeoff-1": lambda: figures.tradeoff_figure(scores(1), 80, some(1)),
    "tradeoff-4-seeds": lambda: figures.tradeoff_figure(scores(4, (1, 2, 3)), 80, some(4)),
    "tradeoff-12-missing": lambda: figures.tradeoff_figure(scores(12, missing=("variant_3",)), 80, some(12)),
    "tradeoff-20": lambda: figures.tradeoff_figure(scores(20), 80, some(20)),
    "training-1": lambda: figures.training_figure(history(1, (1,), (20,)).head(1), some(1)),
    "training-12": lambda: figures.training_figure(history(12), some(13)),
    "umap-1": lambda: umap(1),
    "umap-8-one-panel": lambda: umap(8, labels=["cell_type"]),
    "umap-40": lambda: umap(40),
    "umap-three-panels": lambda: umap(13, labels=["cell_type", "donor_id", "cell_type"]),
    "factors-k1": lambda: factors(3, 1),
    "factors-8": lambda: factors(8, 80),
    "factors-40": lambda: factors(40, 100),
    "factors-donors": lambda: factors(8, 20, "donor_id"),
    "resources-1": lambda: figures.resources_figure(resources(1), some(1)),
    "resources-12": lambda: figures.resources_figure(resources(12), some(12)),
    "spatial-1": lambda: in_space(1, 1),
    "spatial-2": lambda: in_space(300, 2),
    "spatial-80": lambda: in_space(5000, 80),
    "moments-0": lambda: genes(0),
    "moments-2000": lambda: genes(2000),
    "comparison-1": lambda: comparison(1, 1),
    "comparison-2": lambda: comparison(2, 2),
    "comparison-1-80": lambda: comparison(1, 80),
    "comparison-80-60": lambda: comparison(80, 60),
    "comparison-long-names": lambda: comparison(12, 100, ("A long name " * 8, "Variant β=$1 " * 9)),
}  # fmt: skip


def drawn_texts(figure, monkeypatch) -> list[tuple[str, float, object]]:
    """Text, size in points and box in pixels of all that is drawn (ticks out of view are not)."""
    seen = []
    draw = Text.draw

    def record(self, renderer, *args, **kwargs):
        if self.get_visible() and self.get_text().strip():
            seen.append((self.get_text(), self.get_fontsize(), Text.get_window_extent(self, renderer)))
        return draw(self, renderer, *args, **kwargs)

    monkeypatch.setattr(Text, "draw", record)
    figure.canvas.draw()
    return seen


@pytest.mark.parametrize("name", CASES)
def test_text_is_whole_apart_and_large_enough(name, monkeypatch):
    figure = CASES[name]()
    texts = drawn_texts(figure, monkeypatch)
    assert texts
    width, height = figure.get_size_inches() * figure.dpi
    assert height <= 0.551 * width, "the report would cut its top off"
    for text, points, box in texts:
        assert box.x0 >= -1, f"{text!r} is cut on the left"
        assert box.y0 >= -1, f"{text!r} is cut below"
        assert box.x1 <= width + 1, f"{text!r} is cut on the right"
        assert box.y1 <= height + 1, f"{text!r} is cut above"
        assert points >= 5, f"{text!r} is too small to print"
    for i, (text, _, box) in enumerate(texts):
        for other, _, box2 in texts[i + 1 :]:
            across = min(box.x1, box2.x1) - max(box.x0, box2.x0)
            down = min(box.y1, box2.y1) - max(box.y0, box2.y0)
            assert across <= 1.5 or down <= 2.5, f"{text!r} lies on {other!r}"


@pytest.mark.parametrize("name", ["scores-1", "umap-1", "factors-k1", "resources-1"])
def test_files_are_the_same_twice(name, tmp_path):
    for turn in "ab":
        figures.save(CASES[name](), [tmp_path / f"{turn}.png"])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    figures.save(CASES[name](), [tmp_path / "a.pdf"])
    assert (tmp_path / "a.pdf").stat().st_size > 5000
