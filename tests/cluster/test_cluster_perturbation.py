"""The second task on a real SLURM: a GPU job for each seed, side by side."""

from __future__ import annotations

import json
import re

import pandas as pd
import pytest

import screens
from screens import SEEDS, fit_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]


@pytest.fixture
def seeds(seeds_begun) -> screens.Seeds:
    return seeds_begun.result()


def trainings(run, predictor: str) -> list[dict[str, str]]:
    return [job for job in run.jobs() if "train_nb_glm" in job["Comment"] and predictor in job["Comment"]]


def test_each_seed_is_a_job_with_a_gpu_of_its_own(seeds):
    jobs = trainings(seeds.by_gpus, "published")
    assert len(jobs) == len(SEEDS) == len({job["Comment"] for job in jobs})
    for job in jobs:
        assert job["Partition"] == "gpu", job
        assert "gres/gpu=1" in job["AllocTRES"], job
    # they ran at the same time: the scheduler gave them different devices
    given = re.findall(r"partition gpu\), CUDA_VISIBLE_DEVICES '(\d)'", seeds.by_gpus.text)
    assert set(given) == {"0", "1"}, seeds.by_gpus.text[-4000:]


def test_the_convex_fit_holds_no_gpu_and_its_cells_are_drawn_and_scored_in_one_job(seeds):
    (job,) = trainings(seeds.by_gpus, "coexpression_nb_glm")
    assert (job["Partition"], job["State"]) == ("cpu", "COMPLETED")
    assert "gpu" not in job["AllocTRES"]
    comments = [other["Comment"] for other in seeds.by_gpus.jobs()]
    assert sum(comment.startswith("rule_predictions") for comment in comments) == 1, comments
    assert (seeds.by_gpus.folder / fit_of("nb_glm", SEEDS[0], "scores.tsv")).exists()


def test_a_seed_whose_gpu_is_missing_is_a_gap_with_its_class(seeds):
    assert seeds.by_gpus.code != 0
    assert "a GPU was asked of the scheduler and torch sees none" in seeds.by_gpus.text
    assert "missing: demo_screen unseen coexpression published seed 1, train_predictor" in seeds.by_gpus.text
    assert seeds.tables.code == 0, seeds.tables.text[-3000:]
    table = seeds.tables.folder / "results/demo_screen/partial_tables/perturbation_coverage.tsv"
    coverage = pd.read_csv(table, sep="\t").set_index(["predictor", "seed"])
    for seed in SEEDS:
        row = coverage.loc[("published", seed)]
        assert (row["step"], row["status"]) == ("train_predictor", "gpu missing")
    assert coverage.loc[("nb_glm", SEEDS[0]), "status"] == "ok"


def test_without_gpus_the_same_seeds_train_on_cpus(seeds):
    run = seeds.on_cpus
    assert run.code == 0, run.text[-4000:]
    jobs = trainings(run, "published")
    assert [job["Partition"] for job in jobs] == ["cpu"] * len(SEEDS)
    assert all("gpu" not in job["AllocTRES"] for job in jobs)
    records = [json.loads((run.folder / fit_of("published", seed)).read_text()) for seed in SEEDS]
    assert [record["seed"] for record in records] == list(SEEDS)
    assert {record["device"] for record in records} == {"cpu"}
