"""What has no meaning for the data is said, passed on and shown; all else is made."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pandas as pd
import pytest

from nmfbench.errors import InputError
from nmfbench.inapplicable import MARK, reason_among, reason_in, write_stub
from nmfbench.metrics.clustering import score_label
from nmfbench.results import read_result
from nmfbench.tables.coverage import coverage
from nmfbench.tables.failures import NOT_APPLICABLE
from nmfbench.tables.runs import try_read
from test_job import finish

REASON = "conditions: one donor <b>&"
FILES = ["result.h5ad", "run.json", "history.tsv", "clusters.tsv.gz", "neighbours.npz", "page.html"]


@pytest.mark.parametrize("name", FILES)
def test_a_stub_gives_its_reason_back(tmp_path, name):
    write_stub(tmp_path / name, REASON)
    if name != "page.html":
        assert reason_in(tmp_path / name) == REASON
    else:
        assert "<b>" not in (tmp_path / name).read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["umap.png", "umap.pdf"])
def test_a_figure_shows_the_reason(tmp_path, name):
    write_stub(tmp_path / name, REASON)
    assert (tmp_path / name).stat().st_size > 1000


def test_results_are_no_stubs(tmp_path):
    (tmp_path / "run.json").write_text(
        json.dumps({"kind": "ae_nmf", "warnings": ["not_applicable"]}), encoding="utf-8"
    )
    (tmp_path / "t.tsv").write_text("a\tb\n1\t2\n", encoding="utf-8")
    (tmp_path / "t.tsv.gz").write_bytes(gzip.compress(b"a\tb\n"))
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"a\tb\n")[:6])
    assert reason_among([*tmp_path.iterdir(), tmp_path / "absent"]) is None


def test_whoever_reads_a_stub_is_told(tmp_path):
    write_stub(tmp_path / "result.h5ad", REASON)
    with pytest.raises(InputError, match="one donor"):
        read_result(tmp_path / "result.h5ad")
    write_stub(tmp_path / "t.tsv", REASON)
    assert try_read(tmp_path / "t.tsv", pd.read_csv) == (None, f"{MARK}{REASON}")


def test_a_job_leaves_stubs_and_ends_well(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    body = """
        from nmfbench.errors import NotApplicable
        raise NotApplicable('conditions', 'two donors', 'one', 'other data')
        """
    code, text = finish(tmp_path, body)
    assert code == 0
    assert "not applicable" in text
    assert reason_in(tmp_path / "out") == "conditions: one, where two donors would be needed"


def test_a_job_of_a_fit_passes_the_reason_on_and_a_pooling_job_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_stub(tmp_path / "in.tsv", REASON)
    for wildcards, expected in ({"model": "x"}, REASON), ({"dataset": "d"}, None):
        (tmp_path / "out").unlink(missing_ok=True)
        text = f"snakemake.wildcards, snakemake.input = {wildcards!r}, ['in.tsv']\n"
        monkeypatch.setattr("test_job.SCRIPT", _script(text))
        code, _ = finish(tmp_path, "open('out', 'w').write('made')")
        assert code == 0
        assert reason_in(tmp_path / "out") == expected


def _script(lines):
    from test_job import SCRIPT

    return (
        SCRIPT.replace("with job(snakemake)", lines + "with job(snakemake)")
        if lines not in SCRIPT
        else SCRIPT
    )


def test_one_class_has_no_clustering_score():
    clusters = pd.DataFrame({"leiden_seed_0": [0, 1, 0, 1], "leiden_seed_3": [0, 0, 0, 0]})
    table = score_label(clusters, ["T"] * 4)
    assert table["leiden_seed"].tolist() == [0, 3]
    assert table[["ARI", "NMI"]].isna().all(axis=None)
    assert table["message"].str.contains(r"one class \(T\)").all()
    assert (score_label(clusters, ["T", "B"] * 2)["message"] == "").all()
    assert score_label(clusters, [None] * 4)["message"].str.contains("no class").all()


def test_coverage_tells_what_was_not_applicable(tmp_path):
    cell = {
        "dataset": "d",
        "model": "cae_nmf1",
        "rank": 3,
        "seed": 42,
        "labels": ["cell_type"],
        "cv_seeds": [1],
    }
    folder = tmp_path / "d/cae_nmf1/rank-3/seed-42"
    for name in (
        "result.h5ad",
        "clusters.tsv.gz",
        "clustering.tsv",
        "classification/cell_type/cv-seed-1.tsv",
    ):
        write_stub(folder / name, REASON)
    table = coverage([cell], tmp_path)
    assert (table["status"] == "missing").all()
    assert (table["failure"] == NOT_APPLICABLE).all()
    assert (table["reason"].str.contains("one donor")).all()
    assert np.all(table["present"] == 0)


def test_coverage_of_a_label_with_one_class(tmp_path):
    cell = {"dataset": "d", "model": "ae_nmf", "rank": 3, "seed": 42, "labels": ["cell_type"], "cv_seeds": []}
    folder = tmp_path / "d/ae_nmf/rank-3/seed-42"
    folder.mkdir(parents=True)
    score_label(pd.DataFrame({"leiden_seed_0": [0, 1]}), ["T", "T"]).assign(label="cell_type").to_csv(
        folder / "clustering.tsv", sep="\t", index=False, na_rep="NA"
    )
    row = coverage([cell], tmp_path).set_index("step").loc["score_clusters"]
    assert (row["present"], row["failure"]) == (0, NOT_APPLICABLE)
    assert "one class" in row["reason"]


def test_warnings_of_runs_stand_on_the_first_page(tmp_path):
    from nmfbench.tables.cautions import cautions

    grid = [
        {"dataset": "d", "model": model, "display_name": model.upper(), "rank": 3, "seed": 1}
        for model in "abc"
    ]
    for cell, notes in zip(
        grid, (["few cells `hold`\nmost"], ["few cells `hold`\nmost", "diverged"], None), strict=True
    ):
        folder = tmp_path / f"d/{cell['model']}/rank-3/seed-1"
        folder.mkdir(parents=True)
        if notes is None:
            write_stub(folder / "run.json", REASON)
        else:
            (folder / "run.json").write_text(json.dumps({"warnings": notes}), encoding="utf-8")
    said = cautions(grid, tmp_path)
    assert said[0] == "Warning of A, B: few cells 'hold' most."
    assert "Warning of B: diverged." in said
    assert f"Warning of C: {MARK}{REASON}." in said
    assert cautions([], tmp_path) == []


def test_another_number_of_cells_than_is_known_is_a_warning(tmp_path):
    from nmfbench.tables.cautions import cautions

    cell = {"dataset": "d", "model": "a", "display_name": "A", "rank": 3, "seed": 1, "expected_cells": 579027}
    folder = tmp_path / "d/a/rank-3/seed-1"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"n_cells": 592317}), encoding="utf-8")
    assert (
        "592,317 cells were kept, and datasets.d.expected_cells is 579,027" in cautions([cell], tmp_path)[0]
    )
    (folder / "run.json").write_text(json.dumps({"n_cells": 579027}), encoding="utf-8")
    assert cautions([cell], tmp_path) == []
    assert cautions([cell | {"expected_cells": None}], tmp_path) == []
