"""The grid of a config as files, fits and jobs: what the rules and the tables are told."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from nmfbench.config import load_config
from nmfbench.grid import COMPARISON, expand
from nmfbench.models import get_card
from nmfbench.plan import Plan
from nmfbench.revisions import REVISIONS, revision, training_revision

VARIABLES = {"<results>": "out", "<logs>": "out/logs", "<benchmarks>": "out/times"}
VARIABLES["<fit>"] = "{dataset}/{model}/rank-{rank}/seed-{seed}"
TWO = {"datasets": {"a": {"simulate": {}}, "b": {"path": "b.h5ad"}}, "ranks": [3, 4], "seeds": [7, 8]}


def spell(pattern):
    for name, value in VARIABLES.items():
        pattern = pattern.replace(name, value)
    return pattern


def plan(prefix="", **config):
    return Plan(load_config(TWO | config), spell, lambda path: prefix + path)


def of(**wildcards):
    return SimpleNamespace(**wildcards)


def test_expand_keeps_the_order_of_the_values_given():
    assert expand("{a}-{b}.{a}", b=[1, 2], a="xy", c=[5]) == ["xy-1.xy", "xy-2.xy"]
    assert expand("plain", a=[1]) == ["plain"]


def test_the_rule_of_a_kind_takes_its_variants_and_no_other():
    found = plan(models={"ae_nmf": {}, "slow": {"kind": "ae_nmf"}, "base_nmf": {}})
    assert "{model,ae_nmf|slow}" in found.fit_of("ae_nmf")
    assert "{model,(?!)}" in found.fit_of("pnmf"), "no job where the config has none"
    assert (found.datasets_from("simulate"), found.datasets_from("url")) == ("a", "(?!)")
    assert found.kinds() == {"ae_nmf": "ae_nmf", "slow": "ae_nmf", "base_nmf": "base_nmf"}


def test_files_of_the_grid():
    found = plan(models={"ae_nmf": {}})
    files = found.fits_of("<results>/<fit>/run.json", "rank")(of(dataset="b", rank="4"))
    assert files == ["out/b/ae_nmf/rank-4/seed-7/run.json", "out/b/ae_nmf/rank-4/seed-8/run.json"]
    assert found.first_fit.endswith("/seed-7")
    targets = found.targets()
    assert targets == sorted(set(targets))
    assert "out/b/tables/clustering_metrics_by_donor_id_k4.csv" in targets
    assert "out/a/figures/ae_nmf/umap-rank-3.png" in targets
    assert not [file for file in targets if "rank_selection" in file or "/comparisons/" in file]
    both = found.source_file(of(dataset="a")), found.source_file(of(dataset="b"))
    assert both == ("out/a/source.h5ad", "b.h5ad")


def test_comparisons_have_a_file_in_every_dataset():
    asked = [{"first": {"model": "ae_nmf", "rank": 3}, "second": {"model": "base_nmf", "rank": 4}}]
    files = plan(comparisons=asked).compared_fits(f"<results>/{COMPARISON}.tsv")
    name = "comparisons/ae_nmf-rank-3-seed-7-with-base_nmf-rank-4-seed-7.tsv"
    assert files == [f"out/{dataset}/{name}" for dataset in "ab"]


def test_what_the_tables_expect():
    found = plan(models={"ae_nmf": {}, "base_nmf": {"display_name": "NMF"}})
    fits = found.expected_fits(of(dataset="a"))
    assert [(fit["model"], fit["rank"], fit["seed"]) for fit in fits[:4]] == [
        ("ae_nmf", rank, seed) for rank in (3, 4) for seed in (7, 8)
    ]
    assert [fit["umap"] for fit in fits[:2]] == [True, False]
    assert fits[-1]["display_name"] == "NMF"
    at_one_rank = found.expected_fits(of(dataset="a", rank="4"))
    assert {fit["rank"] for fit in at_one_rank} == {4}
    assert found.logs["train"] == "out/logs/train/{dataset}/{model}/rank-{rank}/seed-{seed}.log"
    assert found.benchmarks["classify_embedding"].endswith("/{label}-cv-seed-{cv_seed}.tsv")


def test_a_prefix_stands_before_what_is_looked_at_and_not_before_what_rules_are_given():
    found = plan("sub/", datasets={"a": {"simulate": {}, "shared_statistics": True}})
    wildcards = of(dataset="a", model="ae_nmf", rank=3, seed=7)
    assert found.statistics(wildcards) == "out/a/statistics/all.h5"
    assert found.needs_of("a", "ae_nmf") == ["sub/out/a/filtered.h5ad", "sub/out/a/statistics/all.h5"]
    assert found.needs_of("a", "base_nmf") == ["sub/out/a/filtered.h5ad"]
    assert found.logs["train"].startswith("sub/out/logs/")
    jobs = found.shared_jobs(of(dataset="a"))
    assert {job["step"] for job in jobs} == {
        *("simulate_dataset", "filter_donors", "gather_statistics", "merge_statistics"),
        "make_reference",
    }
    assert all(job[key].startswith("sub/") for job in jobs for key in ("file", "log", "benchmark"))


def test_shared_jobs_are_chained_by_their_files():
    found = plan(rank_selection={"models": ["ae_nmf"]}, statistics={"shards": 3})
    jobs = {job["file"]: job for job in found.shared_jobs(of(dataset="a"))}
    assert found.shards_in("fitted") == [0, 1]
    assert jobs["out/a/statistics/held_out.h5"]["needs"] == ["out/a/statistics/shards/3-of-3.h5"]
    assert jobs["out/a/ae_nmf/rank_selection.tsv"]["model"] == "ae_nmf"
    made = set(jobs)
    assert all(set(job["needs"]) <= made for job in jobs.values())
    assert found.donor_grams(of(dataset="a")) is False
    swept = plan(rank_selection={"models": ["cae_nmf2"]})
    assert swept.donor_grams(of(dataset="a")) is True


@pytest.mark.parametrize(
    ("model", "settings", "order"),
    [
        ("ae_nmf", {"solver": "minibatch"}, "by_type"),
        ("ae_nmf", {"solver": "minibatch", "batches": "random"}, "plain"),
        ("ae_nmf", {"training": "published"}, "by_type"),
        ("ae_nmf", {"solver": "statistics"}, None),
        ("ae_nmf", {}, None),
        ("cae_nmf2", {"solver": "minibatch"}, "plain"),
        ("base_nmf", {}, None),
        ("pnmf", {}, None),
    ],
)
def test_the_shuffled_store_of_a_fit(model, settings, order):
    found = plan(models={model: settings}, out_of_core=True)
    wildcards = of(dataset="a", model=model)
    assert found.shuffled(wildcards) == (f"out/a/shuffled-{order}.h5ad" if order else [])
    assert found.out_of_core(wildcards) == (model not in ("base_nmf", "pnmf"))
    assert not plan(models={model: settings}, out_of_core=False).shuffled(wildcards)


def test_what_is_there_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = plan(models={"ae_nmf": {}}, ranks=[3], seeds=[7])
    assert found.present_results(of(dataset="a")) == found.ages_of_logs(of(dataset="a")) == []
    record = tmp_path / "out/a/ae_nmf/rank-3/seed-7/run.json"
    log = tmp_path / "out/logs/train/a/ae_nmf/rank-3/seed-7.log"
    for path in (record, log):
        path.parent.mkdir(parents=True)
        path.touch()
    assert found.present_results(of(dataset="a")) == ["out/a/ae_nmf/rank-3/seed-7/run.json"]
    assert found.ages_of_logs(of(dataset="a")) == [log.stat().st_mtime_ns]
    fits, jobs = found.everything()
    assert [fit["dataset"] for fit in fits] == ["a", "b"]
    assert {job["dataset"] for job in jobs} == {"a", "b"}


def test_device_settings_and_tensorboard_of_a_job():
    found = plan(device="cuda", models={"ae_nmf": {}, "base_nmf": {}}, tensorboard={"enabled": True})
    wildcards = of(dataset="a", model="ae_nmf", rank=3, seed=7)
    assert found.device(wildcards) == "cuda"
    assert found.device(of(model="base_nmf")) == "cpu"
    assert found.tensorboard(wildcards)["folder"] == "out/logs/tensorboard/a/ae_nmf/rank-3/seed-7"
    assert plan().tensorboard(wildcards) is None
    parameters = found.section(wildcards).parameters()
    assert not {"kind", "display_name", "training"} & set(parameters)
    assert found.dataset("condition_columns")(wildcards) == {"condition_columns": ["donor_id"]}


def test_a_revision_is_read_as_a_stage_and_a_number():
    assert revision("filter_donors") == f"filter_donors {REVISIONS['filter_donors']}"
    assert training_revision(get_card("ae_nmf")).startswith("train ae_nmf ")
