"""The recipe for a model, followed to the letter in a copy of the repository; and what runs again there.

``tests/toy_model`` is the folder, and one line of the registry is all else that is added.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from snake import REPOSITORY, snakemake

pytestmark = pytest.mark.slow

LINE = '    "base_nmf": "base_nmf.estimator",\n'
TABLES = "results/micro/tables/scores.tsv"
FIGURES = ["results/micro/figures/toy/factors-rank-5.png", "results/micro/figures/tradeoff-rank-5.png"]
FIVE_MODULES = ("data/donors.py", "linalg.py", "metrics/clustering.py", "models/estimator.py", "train.py")


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """A copy of the repository with one more folder and one more line."""
    copy = tmp_path_factory.mktemp("with_toy")
    for name in ("config", "envs", "scripts", "workflow", "profiles"):
        shutil.copytree(REPOSITORY / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    models = copy / "scripts" / "nmfbench" / "models"
    shutil.copytree(REPOSITORY / "tests" / "toy_model", models / "toy")
    registry = models / "__init__.py"
    text = registry.read_text()
    assert LINE in text
    registry.write_text(text.replace(LINE, LINE + '    "toy": "toy.estimator",\n'))
    values = yaml.safe_load((REPOSITORY / "tests/configs/micro.yaml").read_text())
    values |= {"models": {"toy": {"n_iter": 2}}, "comparisons": [], "projections": {}, "device": "cpu"}
    values["integration"] = {"metrics": []}
    (copy / "toy.yaml").write_text(yaml.safe_dump(values))
    return copy


def run(copy: Path, *arguments: str):
    return snakemake(*arguments, "--configfile", "toy.yaml", cwd=copy)


@pytest.fixture(scope="module")
def finished(copy) -> Path:
    """The copy, in which the toy was run to the tables and to figures."""
    call = run(copy, TABLES, *FIGURES)
    assert call.code == 0, call.text
    return copy


def test_the_toy_is_in_every_csv_and_figure(finished):
    tables = finished / "results" / "micro" / "tables"
    csvs = sorted(tables.glob("*.csv"))
    assert len(csvs) == 4
    for csv in csvs:
        assert pd.read_csv(csv)["Model"].tolist() == ["TOY"], csv
    scores = pd.read_csv(tables / "scores.tsv", sep="\t")
    assert (scores["model"] == "toy").all()
    assert (scores["status"] == "ok").all()
    assert all((finished / figure).exists() for figure in FIGURES)


def test_a_second_run_does_nothing(finished):
    assert "Nothing to be done" in run(finished, TABLES, *FIGURES).text


def test_a_comment_runs_nothing_again(finished):
    package = finished / "scripts" / "nmfbench"
    edited = [package / name for name in FIVE_MODULES]
    edited += [finished / "scripts" / "train_model.py", package / "models" / "toy" / "estimator.py"]
    for path in edited:
        path.write_text(path.read_text() + "# a comment\n")
    call = run(finished, TABLES, *FIGURES, "-n")
    assert "Nothing to be done" in call.text, call.text


def test_a_raised_revision_runs_its_stage_again_and_says_so(finished):
    card = finished / "scripts" / "nmfbench" / "models" / "toy" / "card.py"
    text = card.read_text()
    card.write_text(text.replace("revision=1", "revision=2"))
    try:
        call = run(finished, TABLES, "-n", "--quiet", "host")
    finally:
        card.write_text(text)
    assert "rule train_toy:" in call.text
    assert "rule filter_donors:" not in call.text
    assert re.search(r"train toy 1.*train toy 2", call.text, re.DOTALL), call.text
