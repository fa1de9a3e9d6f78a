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
from test_tables import LABELS, collect, make_run
from test_tables import cell as a_cell

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


def without_classes(results, model, label):
    """A run whose one label has one class, so that it can be neither classified nor compared."""
    one = a_cell(model)
    folder = make_run(results, one)
    for path in (folder / "classification" / label).iterdir():
        write_stub(path, "1 of 1 classes")
    table = pd.read_csv(folder / "clustering.tsv", sep="\t")
    gone = table["label"] == label
    table.loc[gone, ["ARI", "NMI"]] = np.nan
    table["message"] = np.where(gone, "the label has one class (B), where two are needed", "")
    table.to_csv(folder / "clustering.tsv", sep="\t", index=False, na_rep="NA")
    return one


def test_one_label_that_cannot_be_classified_costs_no_other(tmp_path):
    results = tmp_path / "results"
    grid = [without_classes(results, model, "cell_type") for model in ("base_nmf", "ae_nmf")]
    paths = collect(results, grid)
    for kind in ("clustering_metrics", "classification_summary"):
        rows = {label: pd.read_csv(paths[f"{kind}_by_{label}_k8.csv"]) for label in LABELS}
        assert len(rows["donor_id"]) == 2
        assert rows["donor_id"].notna().all(axis=None)
        assert rows["cell_type"].empty
    folder = paths["scores.tsv"].parent
    assert "has one class (B)" in (folder / "clustering_metrics_by_cell_type_k8.html").read_text()
    assert "1 of 1 classes" in (folder / "classification_summary_by_cell_type_k8.html").read_text()
    assert "Not applicable" not in (folder / "classification_summary_by_donor_id_k8.html").read_text()
    assert "has one class (B)" in (folder / "leaderboard.txt").read_text()
    scores = pd.read_csv(paths["scores.tsv"], sep="\t").set_index("label")["status"]
    assert set(scores["cell_type"]) == {NOT_APPLICABLE}
    assert set(scores["donor_id"]) == {"ok"}


def test_jobs_that_only_passed_a_reason_on_have_no_time(tmp_path):
    from nmfbench.tables.resources import collect_resources

    results = tmp_path / "results"
    made, gone = a_cell("base_nmf"), a_cell("cae_nmf1")
    for one in (made, gone):
        folder = make_run(results, one)
    write_stub(folder / "run.json", REASON)
    benchmark = tmp_path / "b.tsv"
    benchmark.write_text("s\tmax_rss\n6.15\t420\n", encoding="utf-8")
    table = collect_resources(
        [made, gone], results, {"train": str(benchmark), "compute_umap": str(benchmark)}
    )
    assert set(table["model"]) == {"base_nmf"}


def test_figures_of_many_fits_pass_a_reason_on_where_none_is_applicable(tmp_path):
    from nmfbench.errors import NotApplicable
    from nmfbench.factors.tables import read_by_model

    write_stub(tmp_path / "a.tsv", REASON)
    with pytest.raises(NotApplicable, match="one donor"):
        read_by_model([tmp_path / "a.tsv"], ["cae_nmf1"])


def test_figures_tell_what_failed_from_what_has_no_meaning(tmp_path):
    from nmfbench.figures import scores_figure, tradeoff_figure

    results = tmp_path / "results"
    grid = [without_classes(results, "base_nmf", "cell_type")]
    scores = pd.read_csv(collect(results, grid)["scores.tsv"], sep="\t")
    said = [
        text.get_text() for text in scores_figure(scores, 8).findobj(match=lambda a: hasattr(a, "get_text"))
    ]
    assert said.count("not applicable") == 4
    assert "missing" not in said
    said = [
        text.get_text() for text in tradeoff_figure(scores, 8).findobj(match=lambda a: hasattr(a, "get_text"))
    ]
    assert "not applicable: base_nmf" in said


def test_figures_of_factors_and_training_name_what_has_no_meaning(tmp_path):
    from nmfbench.factors.tables import inapplicable_models
    from nmfbench.figures import training_figure
    from nmfbench.figures.factor_statistics import factor_statistics_figure
    from nmfbench.figures.orthogonality import orthogonality_figure

    def said(figure):
        return [text.get_text() for text in figure.findobj(match=lambda artist: hasattr(artist, "get_text"))]

    write_stub(tmp_path / "b.tsv", REASON)
    (tmp_path / "a.tsv").write_text("x\n1\n", encoding="utf-8")
    names = {"a": "A", "b": "B", "c": "C"}
    gone = inapplicable_models([tmp_path / "a.tsv", tmp_path / "b.tsv"], ["a", "b"])
    assert gone == {"b"}
    history = pd.DataFrame({"model": "a", "rank": 3, "seed": 1, "epoch": [1, 2], "seconds": [1.0, 2.0]})
    history = history.assign(objective=[2.0, 1.0], relative_error=[0.4, 0.3])
    legend = said(training_figure(history, names, inapplicable=gone))
    assert {"A", "B (not applicable)", "C (missing)"} <= set(legend)
    columns = [f"{side}_{what}" for side in "WH" for what in ("zeros", "L1", "L2", "cosine")]
    factors = pd.DataFrame({"model": ["a", "a"], **dict.fromkeys(columns, 0.5)})
    words = said(factor_statistics_figure(factors, factors, names, 3, inapplicable=gone))
    assert (words.count("not applicable"), words.count("missing")) == (8, 8)
    summary = pd.DataFrame({"model": ["a"], "orthogonality": [1.0]})
    matched = pd.DataFrame({"model": [], "cosine": []})
    legend = said(orthogonality_figure(history, summary, matched, names, "a", 3, inapplicable=gone))
    assert {"A", "B (not applicable)", "C (missing)"} <= set(legend)


def test_after_a_failure_a_stub_is_no_fit(tmp_path, capsys):
    from nmfbench.manifest import report_missing

    grid = [a_cell(model, kind=model) for model in ("base_nmf", "cae_nmf1", "ae_nmf")]
    make_run(tmp_path, grid[0])
    write_stub(make_run(tmp_path, grid[1]) / "run.json", REASON)
    report_missing(grid, [], str(tmp_path), str(tmp_path / "{model}.log"), str(tmp_path))
    said = capsys.readouterr().err
    assert "1 of 3 fits are there." in said
    assert f"not applicable: {tmp_path}/demo/cae_nmf1/rank-8/seed-0" in said
    assert f"missing: {tmp_path}/demo/ae_nmf" in said
