"""What the figures show: as many bars, points, gaps and numbers as the tables hold."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.patches import Rectangle
from numpy.testing import assert_allclose

from nmfbench import figures
from nmfbench.errors import InputError
from nmfbench.figures.summary import summarise, uses_label

NAMES = {"base_nmf": "Base_NMF", "ae_nmf": "AE_NMF", "cae_nmf1": "CAE_NMF1"}


def scores(seeds=(42,), metrics=("ARI", "NMI", "F1", "AUROC", "Recall")) -> pd.DataFrame:
    grid = itertools.product(NAMES, seeds, ("cell_type", "donor_id"), metrics)
    table = pd.DataFrame(grid, columns=["model", "seed", "label", "metric"])
    value = np.linspace(0.2, 0.9, len(table))
    return table.assign(rank=80, value=value, std=0.01, n=10, uses_labels=False, status="ok")


def texts(figure) -> list[str]:
    found = [text.get_text() for axes in figure.axes for text in axes.texts]
    return found + [text.get_text() for text in figure.texts]


def bars(axes) -> list[Rectangle]:
    return [bar for container in axes.containers for bar in getattr(container, "patches", ())]


def dots(axes, each: int) -> int:
    """Points of the scatters that hold this many."""
    counts = [
        len(scatter.get_offsets()) for scatter in axes.collections if isinstance(scatter, PathCollection)
    ]
    return sum(count for count in counts if count == each)


# ---- scores


def test_one_bar_for_each_model_and_panel():
    table = scores()
    figure = figures.scores_figure(table, 80, NAMES)
    assert len(figure.axes) == 8  # two labels, four metrics; Recall is not drawn
    assert [len(bars(axes)) for axes in figure.axes] == [3] * 8
    first = table[(table["label"] == "cell_type") & (table["metric"] == "ARI")]
    assert_allclose([bar.get_width() for bar in bars(figure.axes[0])], first["value"])
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == list(NAMES.values())
    assert figure.axes[0].get_title(loc="left").endswith("↑")
    assert figure.axes[4].get_title(loc="left").endswith("↓")


def test_a_held_out_score_gets_no_panels_of_missing_bars():
    table = scores()
    counts = table.iloc[:1].assign(label="counts", metric="held_out_log_likelihood", value=-0.7)
    figure = figures.scores_figure(pd.concat([table, counts]), 80, NAMES)
    assert len(figure.axes) == 8
    assert not any("missing" in text or "counts" in text for text in texts(figure))


@pytest.mark.parametrize("how", ["status", "nan", "no row"])
def test_missing_is_a_gap_with_a_word(how):
    table = scores()
    gone = (table["model"] == "ae_nmf") & (table["metric"] == "F1")
    if how == "status":
        table.loc[gone, ["status", "value"]] = ["missing", 0.0]
    elif how == "nan":
        table.loc[gone, "value"] = np.nan
    else:
        table = table[~gone]
    figure = figures.scores_figure(table, 80, NAMES)
    assert [len(bars(axes)) for axes in figure.axes] == [3, 3, 2, 3] * 2
    assert texts(figure).count("missing") == 2
    assert all(bar.get_width() > 0 for axes in figure.axes for bar in bars(axes))


def test_a_model_of_the_config_without_rows_is_missing_everywhere():
    figure = figures.scores_figure(scores(), 80, {**NAMES, "cae_nmf2": "CAE_NMF2"})
    assert texts(figure).count("missing") == 8


def test_negative_scores_stay_in_view():
    table = scores()
    table.loc[table["metric"] == "ARI", "value"] = -0.07
    axes = figures.scores_figure(table, 80, NAMES).axes[0]
    assert axes.get_xlim()[0] <= -0.08


def test_other_labels_take_their_direction_from_the_caller():
    table = scores().replace({"donor_id": "assay"})
    plain = figures.scores_figure(table, 80, NAMES)
    assert plain.axes[4].get_title(loc="left") == "adjusted Rand index"
    told = figures.scores_figure(table, 80, NAMES, directions={"assay": "lower"})
    assert told.axes[4].get_title(loc="left").endswith("↓")


def test_single_values_lie_over_the_bars():
    table = scores()
    points = table.loc[table.index.repeat(5), ["model", "label", "metric", "value"]]
    figure = figures.scores_figure(table, 80, NAMES, points=points)
    assert dots(figure.axes[0], each=5) == 15


def folds(seeds=(42,)) -> pd.DataFrame:
    """Two classifiers 0.4 apart, and folds that differ by 0.01."""
    grid = itertools.product(NAMES, seeds, ("cell_type", "donor_id"), (0, 1), (0, 1, 2), ("kNN", "forest"))
    table = pd.DataFrame(grid, columns=["model", "seed", "label", "cv_seed", "fold", "classifier"])
    table["F1"] = 0.4 + 0.4 * (table["classifier"] == "kNN") + 0.01 * table["fold"]
    return table.assign(rank=80, AUROC=table["F1"], status="ok")


def test_error_bars_are_of_folds_and_classifiers_are_ticks():
    figure = figures.scores_figure(scores(), 80, NAMES, folds=folds())
    bar = figure.axes[2].containers[1]  # the first model's error bar in the panel of F1
    (segment,) = bar.lines[2][0].get_segments()
    value = scores().query("metric == 'F1' and label == 'cell_type'")["value"].iloc[0]
    std = np.std([0, 0.01, 0.02] * 2, ddof=1)
    assert_allclose(segment[:, 0], [value - std, value + std])
    ticks = [line for line in figure.axes[2].collections if len(getattr(line, "get_segments", list)()) == 2]
    assert_allclose(sorted(segment[0, 0] for segment in ticks[0].get_segments()), [0.41, 0.81])
    assert any("single classifiers" in text for text in texts(figure))


def test_summary_over_training_seeds():
    table = scores(seeds=(1, 2, 3))
    table.loc[(table["model"] == "ae_nmf") & (table["seed"] == 2), ["value", "status"]] = [np.nan, "missing"]
    summary = summarise(table, 80, NAMES).set_index(["label", "metric", "model"])
    values = table.set_index(["label", "metric", "model"]).sort_index()["value"]["cell_type", "ARI", "ae_nmf"]
    row = summary.loc["cell_type", "ARI", "ae_nmf"]
    assert_allclose(row["value"], values.mean())
    assert_allclose(row["spread"], values.std(ddof=1))
    assert (row["n_present"], row["n_expected"]) == (2, 3)
    assert any("(2/3)" in text for text in texts(figures.scores_figure(table, 80, NAMES)))


def test_summary_of_one_seed_keeps_the_spread_of_the_table():
    assert set(summarise(scores(), 80)["spread"]) == {0.01}


@pytest.mark.parametrize(
    ("value", "expected"),
    [(True, True), ("True", True), ("cell_type,assay", True), ("['cell_type']", True), ("donor_id", False),
     (False, False), ("", False), (np.nan, False), ("cell_type_fine", False)],
)  # fmt: skip
def test_uses_label(value, expected):
    assert uses_label(value, "cell_type") is expected


# ---- trade-off


def test_tradeoff_shows_every_seed_and_names_the_missing():
    table = scores(seeds=(1, 2))
    table.loc[(table["model"] == "ae_nmf") & (table["metric"] == "NMI"), "value"] = np.nan
    figure = figures.tradeoff_figure(table, 80, NAMES)
    assert len(figure.axes) == 4
    assert [dots(axes, each=2) for axes in figure.axes] == [6, 4, 6, 6]
    assert texts(figure).count("missing: AE_NMF") == 1
    assert sum("best" in text for text in texts(figure)) == 4


def test_the_axes_of_the_tradeoff_end_where_scores_do():
    table = scores()
    table["value"] = np.where(table["label"] == "donor_id", 0.004, 0.996)
    for axes in figures.tradeoff_figure(table, 80, NAMES).axes:
        assert axes.get_ylim()[0] >= -0.02
        assert axes.get_xlim()[1] <= 1.02
    table.loc[(table["metric"] == "ARI") & (table["label"] == "donor_id"), "value"] = -0.1
    assert figures.tradeoff_figure(table, 80, NAMES).axes[0].get_ylim()[0] < -0.1


def test_controls_are_the_corners_of_the_tradeoff():
    table = scores()
    donor = table["label"] == "donor_id"
    table["value"] = np.where(donor, 0.1, 0.6) + 0.01 * table["model"].factorize()[0]
    ends = {"control_random": (0.01, 0.02), "control_donor": (0.2, 0.97), "control_cell_type": (1.0, 0.08)}
    one = table[table["model"] == "ae_nmf"]
    parts = [
        one.assign(model=name, value=np.where(one["label"] == "donor_id", y, x))
        for name, (x, y) in ends.items()
    ]
    roles = dict.fromkeys(ends, "control") | dict.fromkeys(table["model"].unique(), "model")
    figure = figures.tradeoff_figure(pd.concat([table, *parts]), 80, NAMES, roles=roles)
    plain = figures.tradeoff_figure(table, 80, NAMES)
    for axes, alone in zip(figure.axes, plain.axes, strict=True):
        assert axes.get_xlim() == alone.get_xlim(), "the axes are those of the models"
        assert axes.get_ylim() == alone.get_ylim()
    said = texts(figure)
    assert said.count("worst controls: control_random 0.01 →, control_donor 0.97 ↑") == 4
    assert said.count("best controls: control_cell_type 1.00 →, control_random 0.02 ↑") == 4
    assert not [text for text in said if text.startswith("missing")]
    with_controls = figures.tradeoff_figure(pd.concat([table, *parts]), 80, NAMES)
    assert with_controls.axes[0].get_xlim()[1] >= 1, "without roles they are points as all others"


def test_tradeoff_without_one_label():
    table = scores()
    figure = figures.tradeoff_figure(table[table["label"] == "cell_type"], 80, NAMES)
    assert texts(figure).count("missing: 3 of 3 models") == 4


# ---- training


def history() -> pd.DataFrame:
    epoch = np.arange(1, 51.0)
    one = pd.DataFrame({"epoch": epoch, "seconds": 3 * epoch, "objective": 500 / epoch})
    one["relative_error"] = 0.5
    runs = itertools.product(("ae_nmf", "new"), (5, 9), (1, 2, 3))
    return pd.concat([one.assign(model=model, rank=rank, seed=seed) for model, rank, seed in runs])


def test_an_elbo_has_an_axis_of_its_own_that_says_so():
    table = history()
    table["elbo_per_entry"] = np.where(table["model"] == "new", -0.3 - 1 / table["epoch"], np.nan)
    figure = figures.training_figure(table, NAMES)
    mine = [axes for axes in figure.axes if axes.get_ylabel() == "ELBO (nats per entry)"]
    assert len(mine) == 4
    assert all(axes.lines[0].get_ydata()[-1] > axes.lines[0].get_ydata()[0] for axes in mine)
    assert [len(axes.lines) for axes in mine] == [2 * 3] * 4, "of one model alone"


def test_training_lines_scales_and_missing_models():
    figure = figures.training_figure(history(), {"ae_nmf": "AE_NMF", "gone": "Gone"})
    assert len(figure.axes) == 8  # two ranks, two values, two clocks
    assert [len(axes.lines) for axes in figure.axes] == [2 * 2 * 3] * 8  # a line and its end for each run
    assert (figure.axes[0].get_xscale(), figure.axes[0].get_yscale()) == ("log", "log")
    assert figure.axes[2].get_yscale() == "linear"


def test_relative_errors_of_counts_and_normalised_values_never_share_an_axis():
    of_counts = history()["model"] == "new"
    table = history().assign(fitted_to=np.where(of_counts, "counts", "normalised"))
    figure = figures.training_figure(table[table["rank"] == 5], {"ae_nmf": "AE_NMF", "new": "New"})
    lines = {}
    for axes in figure.axes:
        lines[axes.get_ylabel(), axes.get_xlabel()] = len(axes.lines)
    assert lines["relative error, counts", "epoch"] == lines["relative error, normalised", "epoch"] == 2 * 3
    assert lines["objective (own units)", "epoch"] == 2 * 2 * 3


def test_training_names_missing_models():
    figure = figures.training_figure(history(), {"ae_nmf": "AE_NMF", "gone": "Gone"})
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["AE_NMF", "Gone (missing)", "new"]


def test_the_legend_of_training_says_what_was_compiled_before():
    table = history().assign(compile_seconds=0.01)
    table.loc[(table["model"] == "new") & (table["rank"] == 5), "compile_seconds"] = 4.0
    table.loc[(table["model"] == "new") & (table["rank"] == 9), "compile_seconds"] = 1.0
    figure = figures.training_figure(table, {"ae_nmf": "AE_NMF", "new": "New"})
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["AE_NMF", "New (compiled 2.5 s)"]


def test_training_without_some_values():
    table = history().assign(relative_error=np.nan)
    assert len(figures.training_figure(table).axes) == 4
    table = table.assign(seconds=np.nan, objective=-table["objective"])
    figure = figures.training_figure(table)
    assert texts(figure).count("missing") == 2
    assert figure.axes[0].get_yscale() == "linear"


def test_training_without_history():
    figure = figures.training_figure(history().head(0), {"ae_nmf": "AE_NMF"})
    assert "missing: no training history" in texts(figure)


# ---- resources


def resources() -> pd.DataFrame:
    rows = [
        ("", np.nan, "filter", 3.0, 200.0, np.nan, "cpu"),
        ("ae_nmf", 8, "train", 30.0, 900.0, 5e3, "cuda"),
        ("base_nmf", 8, "train", 90.0, 800.0, np.nan, "cpu"),
        ("base_nmf", 8, "umap", np.nan, np.nan, np.nan, "cpu"),
        ("ae_nmf", 8, "classify", 10.0, 500.0, np.nan, "cpu"),
        ("ae_nmf", 8, "classify", 20.0, 500.0, np.nan, "cpu"),
    ]
    columns = ["model", "rank", "step", "seconds", "peak_mb", "gpu_peak_mb", "device"]
    return pd.DataFrame(rows, columns=columns).assign(threads=2)


def test_resources_split_by_device_and_average_jobs():
    figure = figures.resources_figure(resources(), NAMES)
    assert len(figure.axes) == 2 + 3  # cpu: seconds and memory; cuda: also GPU memory
    assert [len(bars(axes)) for axes in figure.axes] == [3, 3, 1, 1, 1]
    ends = [bar.get_x() + bar.get_width() for bar in bars(figure.axes[0])]
    assert_allclose(ends, [90, 3, 15])  # training, filter, classify
    assert texts(figure).count("missing") == 2  # UMAP
    assert "15 ×2" in texts(figure)
    assert all(axes.get_xscale() == "log" for axes in figure.axes)


def test_jobs_of_other_steps_are_dots_in_their_models_colour():
    table = resources()
    table.loc[4, "model"] = "base_nmf"
    axes = figures.resources_figure(table, NAMES).axes[0]
    colours = {tuple(colour) for scatter in axes.collections for colour in scatter.get_facecolors()}
    assert len(colours) == 2


def test_resources_name_the_rank_where_several_are():
    table = pd.concat([resources(), resources().assign(rank=20)])
    ticks = [tick.get_text() for tick in figures.resources_figure(table, NAMES).axes[0].get_yticklabels()]
    assert {"Base_NMF, k=8", "Base_NMF, k=20"} <= set(ticks)


def test_resources_show_efficiency_and_the_queue_where_they_are_known():
    table = resources().assign(cpu_efficiency=0.5, queue_seconds=0.0)
    table.loc[table["device"] == "cuda", "queue_seconds"] = None
    figure = figures.resources_figure(table, NAMES)
    labels = [axes.get_xlabel() for axes in figure.axes]
    assert labels.count("CPU efficiency (%)") == 2
    assert labels.count("time in the queue (s)") == 1
    shown = dict(zip(labels[:4], figure.axes, strict=False))
    ends = [bar.get_x() + bar.get_width() for bar in bars(shown["CPU efficiency (%)"])]
    assert_allclose(ends, 50)
    assert shown["CPU efficiency (%)"].get_xscale() == "linear"
    assert shown["CPU efficiency (%)"].get_xlim() == (0, 100)
    ends = [bar.get_x() + bar.get_width() for bar in bars(shown["time in the queue (s)"])]
    assert_allclose(ends, 1)  # no wait is a short one, not a missing one


def test_resources_mark_what_was_compiled_before_a_training():
    table = resources().assign(compile_seconds=np.nan)
    table.loc[table["model"] == "base_nmf", "compile_seconds"] = [200.0, np.nan]
    figure = figures.resources_figure(table, NAMES)
    diamonds = [line.get_xdata() for axes in figure.axes for line in axes.lines if line.get_marker() == "D"]
    assert_allclose(diamonds, [[200.0]])
    assert figure.axes[0].get_xlim()[1] > 200
    assert bars(figure.axes[0])[0].get_width() + bars(figure.axes[0])[0].get_x() == pytest.approx(90)
    assert any("Diamonds: compilation" in text for text in texts(figure))
    assert not any("Diamonds" in text for text in texts(figures.resources_figure(resources(), NAMES)))


def test_resources_of_nothing():
    assert "missing: no resources recorded" in texts(figures.resources_figure(resources().head(0)))


# ---- UMAP


def cells(n=300):
    rng = np.random.default_rng(0)
    names = [f"c{i}" for i in range(n)]
    obs = pd.DataFrame({"cell_type": pd.Categorical(rng.choice(["B", "T"], n), ["B", "T", "unused"]),
                        "donor_id": rng.integers(8, 11, n)}, index=names)  # fmt: skip
    xy = rng.normal(size=(n, 2))
    return pd.DataFrame({"cell": names, "UMAP1": xy[:, 0], "UMAP2": xy[:, 1]}), obs


def test_umap_shows_every_cell_and_only_used_categories():
    coordinates, obs = cells()
    figure = figures.umap_figure(coordinates, obs, "AE_NMF")
    panels = [axes for axes in figure.axes if axes.get_xlabel()]
    assert [dots(axes, each=300) for axes in panels] == [300, 300]
    assert "AE_NMF   300 cells" in texts(figure)
    titles = ["coloured by cell type (2)", "coloured by donor (3)"]
    assert [axes.get_title(loc="left") for axes in panels] == titles
    legend = [text for text in texts(figure) if text in {"B", "T", "8", "9", "10", "unused"}]
    assert legend == ["B", "T", "8", "9", "10"]


def test_umap_joins_by_cell_name_and_counts_the_sample():
    coordinates, obs = cells()
    part = coordinates.iloc[[200, 3, 77]]
    assert "m   3 of 300 cells" in texts(figures.umap_figure(part, obs, "m"))
    with pytest.raises(InputError, match="1 of 3 cells not found"):
        figures.umap_figure(part, obs.drop(index="c3"), "m")


def test_umap_numbers_do_not_depend_on_the_sample():
    coordinates, obs = cells()
    without = coordinates[(obs["donor_id"] != 8).to_numpy()]
    titles = [axes.get_title(loc="left") for axes in figures.umap_figure(without, obs, "m").axes]
    assert "coloured by donor (3)" in titles


def test_umap_marks_cells_without_label():
    coordinates, obs = cells()
    obs.loc[obs.index[:7], "cell_type"] = np.nan
    assert any("7 cells not annotated" in text for text in texts(figures.umap_figure(coordinates, obs)))


# ---- factors


def slow_factor_values(H, labels, threshold, min_cells):
    """The twin for reading: mean and fraction of every factor and group."""
    values = {}
    for j in range(H.shape[1]):
        groups = {g: H[labels == g, j] for g in set(labels) if (labels == g).sum() >= min_cells}
        unit = max(weights.mean() for weights in groups.values())
        for g, weights in groups.items():
            part = (weights > threshold * unit).mean()
            values[j + 1, g] = (weights.mean() / unit, part) if unit > 0 else (0, 0)
    return values


def test_factor_table_agrees_with_its_slow_twin():
    rng = np.random.default_rng(3)
    H = rng.gamma(0.5, size=(200, 6))
    H[:, 4] = 0
    names = np.array(["T 2", "T 10", "β cell", "rare"], dtype=object)
    labels = names[rng.choice(4, 200, p=[0.4, 0.3, 0.28, 0.02])]
    table = figures.factor_table(H.astype(np.float32), labels)
    expected = slow_factor_values(H.astype(np.float32).astype(float), labels, 0.25, 10)
    assert len(table["factor"]) == len(expected) == 6 * 3
    for row in pd.DataFrame(table).itertuples():
        assert_allclose((row.mean, row.fraction), expected[row.factor, row.label], rtol=1e-9)
    assert list(dict.fromkeys(table["label"])) == ["T 2", "T 10", "β cell"]
    assert table["factor"][-1] == 5  # the unused one comes last


def test_factors_stand_in_the_order_of_their_top_group():
    labels = np.repeat(["a", "b", "c"], 20)
    H = np.zeros((60, 4))
    H[40:, 0] = H[:20, 1] = H[20:40, 2] = 1.0
    H[:20, 3], H[20:40, 3] = 1.0, 0.5  # less specific than factor 2
    table = figures.factor_table(H, labels)
    assert list(dict.fromkeys(table["factor"])) == [2, 4, 3, 1]


def test_factor_table_leaves_out_missing_labels_and_keeps_small_data():
    labels = pd.Series(["a", None, "b", np.nan, "a"]).astype("category")
    table = figures.factor_table(np.ones((5, 1)), labels)
    assert list(table["label"]) == ["a", "b"]
    assert list(table["n_cells"]) == [2, 1]


def test_factors_figure_draws_every_factor():
    rng = np.random.default_rng(0)
    labels = rng.choice(["a", "b"], 100)
    H = rng.gamma(1, size=(100, 90)) + 0.5
    H[:, 9] = 0
    figure = figures.factors_figure(pd.DataFrame(figures.factor_table(H, labels)), "AE_NMF")
    shown = [tick.get_text() for axes in figure.axes for tick in axes.get_yticklabels()]
    assert sorted(map(int, filter(str.isdigit, shown))) == list(range(1, 91))
    assert texts(figure).count("unused") == 1


def test_factors_of_nothing():
    table = figures.factor_table(np.ones((3, 2)), np.array([None] * 3, dtype=object))
    assert "missing: no labelled cells" in texts(figures.factors_figure(table))
