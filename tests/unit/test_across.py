"""Several datasets as one benchmark: means with errors, ranks, and what is drawn of them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import friedmanchisquare

from nmfbench.config import load_config
from nmfbench.data.download import https_of
from nmfbench.figures.across import across_figure, critical_difference_figure
from nmfbench.metrics.critical_difference import groups_within, rank_models
from nmfbench.plan import Plan
from nmfbench.tables.across import ranks_over_datasets, scores_across_datasets, scores_by_dataset


@pytest.mark.parametrize(("k", "q"), [(2, 1.960), (5, 2.728), (10, 3.164)])
def test_the_critical_difference_is_that_of_the_paper(k, q):
    """Demšar (2006), table 5: two-tailed Nemenyi at 0.05."""
    scores = np.random.default_rng(k).random((12, k))
    found = rank_models(scores, higher_is_better=True)
    assert found.critical_difference == pytest.approx(q * np.sqrt(k * (k + 1) / (6 * 12)), abs=5e-4)


def test_ranks_and_their_test():
    scores = np.random.default_rng(0).random((7, 4)) + np.array([0.8, 0.3, 0, 0])
    up, down = (rank_models(scores, higher_is_better=way) for way in (True, False))
    assert up.mean_ranks.argmin() == 0
    np.testing.assert_allclose(up.mean_ranks + down.mean_ranks, 5)
    assert up.p == pytest.approx(friedmanchisquare(*scores.T).pvalue)
    tied = rank_models(np.tile([0.5, 0.5, 0.1], (6, 1)), higher_is_better=True)
    np.testing.assert_allclose(tied.mean_ranks, [1.5, 1.5, 3])
    assert rank_models(np.ones((6, 3)), higher_is_better=True).p == 1
    gap = scores.copy()
    gap[2, 1] = np.nan
    assert rank_models(gap, higher_is_better=True).n_datasets == 6
    few = rank_models(scores[:4], higher_is_better=True)
    assert np.isnan([few.p, few.critical_difference]).all()


def test_bars_span_models_that_do_not_differ():
    assert groups_within(np.array([1.0, 1.5, 2.6, 4.0]), 1.2) == [(0, 1), (1, 2)]
    assert groups_within(np.array([1.0, 3.0]), 1.2) == []
    assert groups_within(np.array([1.0, 1.1, 1.2]), 5) == [(0, 2)]


def tables(n_datasets=6, models=("a", "b", "c")):
    """scores.tsv of datasets whose model a is best, b next; two training seeds."""
    rng = np.random.default_rng(1)
    for d in range(n_datasets):
        rows = [
            {"dataset": f"d{d}", "model": model, "rank": 3, "seed": seed, "label": label, "metric": "NMI"}
            | {"value": 0.9 - 0.2 * place + 0.01 * rng.random(), "profile": "fast"}
            for place, model in enumerate(models)
            for seed in (1, 2)
            for label in ("cell_type", "donor_id")
        ]
        yield pd.DataFrame(rows)


def test_a_dataset_counts_once_whatever_its_seeds_and_a_gap_is_told():
    made = list(tables())
    made[0].loc[made[0]["model"] == "b", "value"] = np.nan
    by_dataset = scores_by_dataset(made)
    assert (by_dataset["profile"] == "fast").all()
    names = [f"d{d}" for d in range(6)]
    means = scores_across_datasets(by_dataset, names).set_index(["model", "label"])
    of_a = by_dataset.query("model == 'a' and label == 'cell_type'")["value"]
    row = means.loc[("a", "cell_type")]
    assert row["mean"] == pytest.approx(of_a.mean())
    assert row["se"] == pytest.approx(of_a.std(ddof=1) / np.sqrt(6))
    assert row["low"] < row["mean"] < row["high"]
    assert means.loc[("b", "cell_type"), ["n_datasets", "status"]].tolist() == [5, "partial"]
    none = by_dataset.assign(value=np.nan)
    assert set(scores_across_datasets(none, names)["status"]) == {"missing"}
    one = scores_across_datasets(scores_by_dataset(made[:1]), names[:1])
    assert one["low"].isna().all(), "one dataset has no error, and never one of 0"


def test_ranks_leave_controls_out_and_follow_the_label():
    by_dataset = scores_by_dataset(tables())
    ranks = ranks_over_datasets(by_dataset, {"a": "model", "b": "baseline", "c": "control"})
    found = ranks.set_index(["label", "model"])["mean_rank"]
    assert found["cell_type"].to_dict() == {"a": 1, "b": 2}
    assert found["donor_id"].to_dict() == {"a": 2, "b": 1}, "donors are to be mixed"
    assert set(ranks["note"]) == {"low power: fewer than 10 datasets"}
    few = ranks_over_datasets(scores_by_dataset(tables(3)), {})
    assert few["p"].isna().all()
    assert set(few["note"]) == {"no test of fewer than 5 datasets"}


def test_figures_show_gaps_and_numbers():
    made = list(tables())
    made[0].loc[made[0]["model"] == "b", "value"] = np.nan
    by_dataset = scores_by_dataset(made)
    means = scores_across_datasets(by_dataset, [f"d{d}" for d in range(6)])
    names = {"a": "A", "b": "B", "c": "C", "never": "Never"}
    figure = across_figure(means, by_dataset, 3, "cell_type", names, metrics=["NMI"])
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert "missing" in texts
    assert any("(5/6)" in text for text in texts)
    ranks = ranks_over_datasets(by_dataset, {})
    figure = critical_difference_figure(ranks, 3, "cell_type", names)
    assert "critical difference" in figure.axes[0].get_title(loc="left")


def test_what_several_datasets_are_planned_to_have():
    def files(n):
        datasets = {f"d{i}": {"simulate": {}} for i in range(n)}
        config = load_config({"datasets": datasets, "models": {"pca": {}}, "ranks": [3]})
        return [file for file in Plan(config, str).targets() if "across_datasets" in file]

    assert files(1) == []
    assert len(files(2)) == 3
    assert sum("critical-differences" in file for file in files(5)) == 2


def test_a_public_bucket_is_read_by_https():
    assert https_of("s3://some-bucket/a b/c.h5ad") == "https://some-bucket.s3.amazonaws.com/a%20b/c.h5ad"
    assert https_of("https://host/a.h5ad") == "https://host/a.h5ad"


def test_the_tissues_of_the_manuscript_are_a_whole_config(repository):
    import yaml

    config = load_config(yaml.safe_load((repository / "config" / "tsv2_tissues.yaml").read_text()))
    assert [section.expected_cells for section in config.datasets.values()] == [
        17802,
        8045,
        11716,
        18539,
        9933,
    ]
    assert config.ranks == [80]
    assert {section.sha256 for section in config.datasets.values()} == {"unknown"}
