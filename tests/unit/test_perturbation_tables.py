"""What the report of a screen begins with, and the aggregate over seeds."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from nmfbench.perturbation.aggregate import aggregate
from nmfbench.perturbation.front import AGAINST, NOTHING, front_table, sentence, verdicts

KINDS = {"perturbed_mean": "perturbed_mean", "ridge": "bilinear_ridge", "glm": "nb_glm"}


def summary(*rows) -> pd.DataFrame:
    columns = ("MAE", "MAE_responsive", "PearsonDelta", "PearsonDelta_responsive", "PDS", "DES")
    records = [
        {"Predictor": f"The {name}", "Embedding": embedding, "predictor": name, "n_seeds": 2, "n_failed": 1}
        | dict.fromkeys(columns, 0.5)
        for name, embedding in rows
    ]
    return pd.DataFrame(records)


def differences(*rows) -> pd.DataFrame:
    columns = ["embedding", "predictor", "baseline", "metric", "targets", "better"]
    return pd.DataFrame(rows, columns=columns)


FOUND = differences(
    ("a", "glm", "perturbed_mean", "MAE", "all", "yes"),
    ("b", "glm", "perturbed_mean", "MAE", "all", ""),
    ("a", "ridge", "perturbed_mean", "MAE", "all", "no"),
    # these do not decide
    ("b", "glm", "perturbed_mean", "MAE", "responsive", "yes"),
    ("b", "glm", "target_mean", "MAE", "all", "yes"),
    ("b", "glm", "perturbed_mean", "PDS", "all", "yes"),
)
ROWS = summary(("perturbed_mean", "none"), ("ridge", "a"), ("glm", "a"), ("glm", "b"), ("replicate", "none"))


def test_the_verdict_is_that_of_the_error_over_all_targets():
    assert verdicts(FOUND) == {
        ("a", "glm"): "better",
        ("b", "glm"): "no difference",
        ("a", "ridge"): "worse",
    }


def test_the_sentence_names_who_is_better_and_who_is_worse():
    text = sentence(ROWS, verdicts(FOUND), KINDS)
    assert "beyond the interval over targets: The glm (a); a larger one: The ridge (a)." in text
    nobody = differences(("a", "glm", "perturbed_mean", "MAE", "all", ""))
    text = sentence(ROWS, verdicts(nobody), KINDS)
    assert text == (
        "No predictor has a smaller error than the mean of perturbed beyond the interval over targets."
    )
    without = ROWS[ROWS["predictor"] != "perturbed_mean"]
    assert sentence(without, {}, KINDS).startswith("There is no mean of perturbed")


def test_the_table_says_how_many_seeds_are_there():
    table = front_table(ROWS, verdicts(FOUND), KINDS)
    assert table["seeds"].tolist() == ["2 of 3"] * 4 + [NOTHING]
    assert table[AGAINST].tolist() == [NOTHING, "worse", "better", "no difference", NOTHING]
    assert table["embedding"].tolist() == [NOTHING, "a", "a", "b", NOTHING]


def test_the_aggregate_is_the_same_numbers_in_both_files_whatever_the_order(tmp_path):
    runs = []
    for seed, values in ((3, {"MAE": 1.0, "DES": float("nan")}), (1, {"MAE": 4.0, "DES": 0.5}), (2, None)):
        folder = tmp_path / f"seed-{seed}"
        folder.mkdir()
        if values is not None:
            (folder / "metrics.json").write_text(json.dumps({"metrics": values}))
            (folder / "run.json").write_text(json.dumps({"device": f"cuda:{seed}"}))
        runs.append({"folder": str(folder), "seed": seed, "trained": True})
    aggregate(runs)
    found = json.loads((tmp_path / "multi_seed_metrics.json").read_text())
    assert (found["n_ok"], found["n_failed"], found["failed"]) == (2, 1, [2])
    assert found["devices"] == {"3": "cuda:3", "1": "cuda:1"}
    assert found["aggregate"]["MAE"]["std"] == 1.5
    assert found["aggregate"]["MAE"]["std_sample"] == pytest.approx(3 / 2**0.5)
    assert found["aggregate"]["DES"] | {"sem": 0} == {
        **dict.fromkeys(("mean", "min", "max"), 0.5), "std": 0, "std_sample": None, "sem": 0, "n": 1,
    }  # fmt: skip
    page = (tmp_path / "multi_seed_metrics.md").read_text()
    assert "| MAE | 1 | 4 | NA | 2.5 | 2.12132 | 1 | 4 | 2 |" in page
    assert "| DES | NA | 0.5 | NA | 0.5 | NA | 0.5 | 0.5 | 1 |" in page
    for run in runs:
        (tmp_path / f"seed-{run['seed']}" / "metrics.json").unlink(missing_ok=True)
    aggregate(runs)
    assert not list(tmp_path.glob("multi_seed*")), "without a seed there is no table of one before"
