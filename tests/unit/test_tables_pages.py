"""The leaderboard, its sentence, tables as pages."""

from __future__ import annotations

import base64
import itertools
import re

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from nmfbench.tables.differences import differences, sentence_of_differences
from nmfbench.tables.folds import over_folds, with_fold_deviations
from nmfbench.tables.leaderboard import headline, leaderboard
from nmfbench.tables.page import number, table_page
from nmfbench.tables.uncertainty import comparisons

LABELS = ["cell_type", "donor_id"]
MODELS = {"ae_nmf": "AE_NMF", "pnmf": "PNMF"}


def grid(seeds=(1,), ranks=(5,)):
    return [
        {"dataset": "d", "model": model, "display_name": name, "rank": rank, "seed": seed, "labels": LABELS}
        for (model, name), rank, seed in itertools.product(MODELS.items(), ranks, seeds)
    ]


def folds(seeds=(1,)) -> pd.DataFrame:
    rows = itertools.product(MODELS, seeds, LABELS, (0, 1), (0, 1, 2), ("kNN", "forest"))
    table = pd.DataFrame(rows, columns=["model", "seed", "label", "cv_seed", "fold", "classifier"])
    rng = np.random.default_rng(0)
    table["F1"] = 0.4 + 0.4 * (table["classifier"] == "kNN") + 0.02 * rng.random(len(table))
    return table.assign(dataset="d", rank=5, AUROC=0.5, status="ok")


def scores(values: dict[str, tuple[float, float]], seeds=(1,)) -> pd.DataFrame:
    rows = [
        {"dataset": "d", "model": model, "rank": 5, "seed": seed, "label": label, "metric": metric,
         "value": value + 0.01 * turn, "std": 0.005, "status": "ok"}
        for (model, both), (turn, seed) in itertools.product(values.items(), enumerate(seeds))
        for label, value in zip(LABELS, both, strict=True) for metric in ("ARI", "NMI", "F1", "AUROC")
    ]  # fmt: skip
    return pd.DataFrame(rows)


def board(values, seeds=(1,)) -> pd.DataFrame:
    covered = pd.DataFrame(
        [
            {
                "model": m,
                "rank": 5,
                "step": "train",
                "expected": 7,
                "present": 6,
                "status": "missing",
                "failure": "memory",
            }
            for m in MODELS
        ]
    )
    resources = pd.DataFrame(
        [{"model": m, "rank": 5, "step": "train", "seconds": 3.0, "peak_mb": 200.0} for m in MODELS]
    )
    return leaderboard(scores(values, seeds), folds(seeds), covered, resources, grid(seeds))


def test_folds_count_once_by_the_mean_of_their_classifiers():
    found = over_folds(folds()).query("metric == 'F1'").set_index(["model", "label"])
    mine = folds().query("model == 'pnmf' and label == 'donor_id'")
    means = [rows["F1"].mean() for _, rows in mine.groupby(["cv_seed", "fold"])]
    row = found.loc["pnmf", "donor_id"]
    assert_allclose(row["std"], np.std(means, ddof=1))
    assert row["n"] == 6
    assert_allclose(sorted(row["classifiers"]), sorted(mine.groupby("classifier")["F1"].mean()))
    assert row["std"] < 0.1 * mine["F1"].std(), "most of that deviation is between classifiers"


def test_failed_folds_do_not_count():
    table = folds()
    table.loc[table["fold"] == 0, ["status", "F1"]] = ["failed", 0.0]
    assert set(over_folds(table).query("metric == 'F1'")["n"]) == {4}
    assert over_folds(table.assign(status="failed")).empty


def test_only_deviations_of_classification_change():
    before = scores({"ae_nmf": (0.8, 0.1), "pnmf": (0.7, 0.05)})
    after = with_fold_deviations(before, folds())
    clustering = after["metric"].isin(["ARI", "NMI"])
    assert_allclose(after.loc[clustering, "std"], 0.005)
    assert (after.loc[after["metric"] == "AUROC", "std"] == 0).all()
    assert (before["std"] == 0.005).all(), "the table given is left as it is"


def test_the_leaderboard_has_intervals_and_scores_on_the_scale_of_the_controls():
    from nmfbench.tables.pages import leaderboard_page

    cells = [
        {
            "dataset": "a",
            "model": name,
            "display_name": name,
            "rank": 3,
            "seed": seed,
            "labels": ["cell_type"],
        }
        for name in ("m", "n")
        for seed in (1, 2)
    ]
    rows = [
        {"dataset": "a", "model": cell["model"], "rank": 3, "seed": cell["seed"], "label": "cell_type"}
        | {"metric": "NMI", "value": 0.5 + 0.1 * cell["seed"], "std": 0.01, "status": "ok"}
        for cell in cells
    ]
    covered = pd.DataFrame(
        [
            {"model": c["model"], "rank": 3, "seed": 1, "step": "train", "expected": 1, "present": 1}
            for c in cells
        ]
    ).assign(status="ok", failure="")
    spent = pd.DataFrame(
        [{"model": c["model"], "rank": 3, "step": "train", "seconds": 1.0, "peak_mb": 2.0} for c in cells]
    )
    scaled = pd.DataFrame([{"model": "m", "rank": 3, "label": "cell_type", "metric": "NMI", "scaled": 0.7}])
    none = pd.DataFrame(columns=["model", "rank", "seed", "label", "cv_seed", "fold", "classifier", "status"])
    board = leaderboard(pd.DataFrame(rows), none, covered, spent, cells, scaled).set_index("model")
    half = 12.7062047 * np.std([0.6, 0.7], ddof=1) / np.sqrt(2)
    assert board.loc["m", "cell_type_NMI_low"] == pytest.approx(0.65 - half)
    assert board.loc["m", "cell_type_NMI_high"] == pytest.approx(0.65 + half)
    assert board.loc["m", "cell_type_NMI_scaled"] == 0.7
    assert np.isnan(board.loc["n", "cell_type_NMI_scaled"])
    page = leaderboard_page(board.reset_index(), "a", "")
    assert "cell type NMI, 0 to 1 of controls" in page
    assert "NMI_low" not in page
    without = leaderboard_page(board.assign(cell_type_NMI_scaled=np.nan).reset_index(), "a", "")
    assert "of controls" not in without


def test_leaderboard_of_one_and_of_several_seeds():
    row = board({"ae_nmf": (0.8, 0.1), "pnmf": (0.7, 0.05)}).set_index("model").loc["ae_nmf"]
    assert_allclose([row["cell_type_NMI"], row["cell_type_NMI_std"], row["donor_id_NMI"]], [0.8, 0.005, 0.1])
    assert (row["present"], row["expected"], row["seeds"]) == (6, 7, 1)
    row = board({"ae_nmf": (0.8, 0.1), "pnmf": (0.7, 0.05)}, (1, 2, 3)).set_index("model").loc["ae_nmf"]
    assert_allclose([row["cell_type_NMI"], row["cell_type_NMI_std"]], [0.81, 0.01])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"ae_nmf": (0.8, 0.1), "pnmf": (0.7, 0.05)}, "none is better in both than AE_NMF or PNMF"),
        (
            {"ae_nmf": (0.8, 0.01), "pnmf": (0.7, 0.05)},
            "AE_NMF keeps cell types apart best (NMI 0.800 ± 0.005) and",
        ),
        ({"ae_nmf": (0.8, 0.1), "pnmf": (0.796, 0.05)}, "PNMF within the deviations"),
        ({"ae_nmf": (np.nan, np.nan), "pnmf": (np.nan, np.nan)}, "no model has scores by both"),
    ],
)
def test_the_sentence(values, expected):
    assert expected in headline(board(values))


def test_the_sentence_on_differences_is_what_comparisons_say():
    rng, models = np.random.default_rng(0), {"a": 0.7, "b": 0.5, "c": 0.695, "d": 0.6}
    rows = [
        {"dataset": "x", "model": model, "rank": 8, "seed": seed, "label": label, "metric": metric}
        | {"value": level + rng.normal(scale=0.01), "std": 0.0, "n": 1, "status": "ok"}
        for model, level in models.items()
        for label in ("cell_type", "donor_id")
        for metric in ("NMI", "ARI")
        for seed in range(5)
    ]
    scores = pd.DataFrame(rows)
    grid = [
        {"dataset": "x", "model": model, "rank": 8, "seed": seed, "display_name": model.upper()}
        | {"role": "control" if model == "d" else "model"}
        for model in models
        for seed in range(5)
    ]
    folds = pd.DataFrame(
        columns=["model", "rank", "seed", "label", "status", "cv_seed", "fold", "classifier"]
    )
    said = sentence_of_differences(differences(scores, folds, grid), {m: m.upper() for m in models})
    written = comparisons(scores, folds, grid).query("metric == 'NMI'")
    for label, word, best in (("cell_type", "cell type", "a"), ("donor_id", "donor", "b")):
        mine = written[(written["label"] == label) & (written[["model", "other"]] == best).any(axis=1)]
        other = mine["other"].where(mine["model"] == best, mine["model"])
        beyond, within = (other[side].str.upper() for side in (mine["p_holm"] < 0.05, mine["p_holm"] >= 0.05))
        side = "higher than" if label == "cell_type" else "lower than"
        expected = f"by {word} {best.upper()} is {side} {', '.join(beyond)}"
        expected += f" and not told apart from {', '.join(within)}" if len(within) else ""
        assert expected in said
    assert "not told apart from C" in said
    assert "D" not in said.split("5 %): ")[1], "a control is in no comparison"
    assert sentence_of_differences(differences(scores[scores["seed"] == 0], folds, grid), {}) == ""


def test_no_sentence_without_both_labels():
    assert headline(board({"ae_nmf": (0.8, 0.1), "pnmf": (0.7, 0.05)}).drop(columns="donor_id_NMI")) == ""


def test_a_page_shows_marks_and_holds_everything():
    frame = pd.DataFrame(
        {"model": ["A <b>", "B"], "x": [0.12345, np.nan], "sd": [0.001, 0.0], "n": [1200, 3]}
    )
    page = table_page(frame, "t", "words & more", spreads={"x": "sd"}, high=["x"])
    assert "A &lt;b&gt;" in page
    assert "<b>" not in page
    assert "0.123 ± 0.001" in page
    assert page.count("best") == 1 + 1  # the style and the cell
    assert ">missing<" in page
    assert "1,200" in page
    csv = base64.b64decode(re.search(r"text/csv;base64,([^\"]+)", page).group(1)).decode()
    assert csv.splitlines() == ["model,x,sd,n", "A <b>,0.12345,0.001,1200", "B,NA,0.0,3"]


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (3.0, "3"), (1234.5, "1,234"), (0.0121, "0.012"), (0.00012, "0.0001")]
)
def test_numbers(value, text):
    assert number(value) == text
