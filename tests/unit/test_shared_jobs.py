"""Jobs that fits share, in the tables: a failed shard, what waits for it, what each took."""

from __future__ import annotations

import pytest

from nmfbench.figures.resources import resources_figure
from nmfbench.tables.collect import collect_dataset
from nmfbench.tables.coverage import SHARED, coverage, overview
from nmfbench.tables.files import read_table
from nmfbench.tables.resources import collect_resources

FAILED = (
    "12:00:00 gather_statistics (dataset=demo, scatteritem=2-of-2) starts on node with 2 threads\n"
    "filtered.h5ad: X\n  expected: counts\n  got: NaN\n"
    "12:00:01 gather_statistics ends with exit code 2: bad input\n"
)
DONE = (
    "12:00:00 gather_statistics (dataset=demo, scatteritem=1-of-2) starts on node with 2 threads\n"
    "12:00:00 shard 1 of 2: 5 of 10 cells x 4 genes, dense products on cuda:0, 1 MiB for Gram matrices\n"
    "12:00:01 the card worked in 0.2500 of the time\n"
    "12:00:01 gather_statistics done in 1.0 s, peak memory 300 MB\n"
)
BENCHMARK = "s\th:m:s\tmax_rss\tcpu_time\n{0}\t0:00:09\t{1}\t8.0\n"


class Folder:
    """A made-up results folder of two models with statistics, a sweep and no other step."""

    def __init__(self, root) -> None:
        self.root = root
        self.results = root / "results"
        filtered, merged = self.file("filtered.h5ad"), {}
        self.jobs = [self.job("filter_donors", filtered)]
        shards = [self.file(f"statistics/shards/{number}-of-2.h5") for number in (1, 2)]
        for number, shard in enumerate(shards, 1):
            self.jobs.append(self.job("gather_statistics", shard, [filtered], f"{number}-of-2"))
        for part, needs in {"all": shards, "fitted": shards[:1], "held_out": shards[1:]}.items():
            merged[part] = self.file(f"statistics/{part}.h5")
            self.jobs.append(self.job("merge_statistics", merged[part], needs, part))
        swept = self.file("ae_nmf/rank_selection.tsv")
        self.jobs.append(
            self.job("select_ranks", swept, [merged["fitted"], merged["held_out"]], model="ae_nmf")
        )
        self.grid = [
            {
                "dataset": "demo", "model": model, "display_name": model, "kind": "ae_nmf", "rank": 8,
                "seed": seed, "labels": [], "cv_seeds": [], "needs": [filtered, merged["all"]],
            }
            for model in ("ae_nmf", "cae_nmf1")
            for seed in (0, 1)
        ]  # fmt: skip

    def file(self, name: str) -> str:
        return str(self.results / "demo" / name)

    def job(self, step, file, needs=(), part="", model=None):
        name = f"{step}-{model or part}"
        where = {"log": str(self.root / f"{name}.log"), "benchmark": str(self.root / f"{name}.tsv")}
        which = {"dataset": "demo", "step": step, "part": part, "model": model}
        return {**which, "file": file, "needs": list(needs), "wildcards": "", **where}

    def make(self, *names: str) -> None:
        for name in names:
            path = self.results / "demo" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    def write(self, name: str, text: str) -> None:
        (self.root / name).write_text(text)

    def coverage(self):
        logs = {"train": str(self.root / "train-{model}-{seed}.log")}
        return coverage(self.grid, self.results, logs, jobs=self.jobs)


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def test_a_failed_shard_is_a_gap_that_names_it_and_what_waits_is_not_run(folder):
    folder.make("filtered.h5ad", "statistics/shards/1-of-2.h5", "statistics/fitted.h5")
    folder.write("gather_statistics-2-of-2.log", FAILED)
    # one fit had failed in an earlier try, of which the shard is innocent
    folder.write("train-cae_nmf1-0.log", "12:00:00 train ends with exit code 4: memory\n")
    table = folder.coverage()
    shared = table[table["seed"].isna()].set_index("step")
    assert list(shared.index) == ["filter_donors", "gather_statistics", "merge_statistics", "select_ranks"]
    gathered = shared.loc["gather_statistics"]
    assert gathered[["expected", "present", "status", "failure"]].tolist() == [2, 1, "partial", "bad input"]
    assert gathered["reason"] == "2-of-2: filtered.h5ad: X; expected: counts; got: NaN"
    merged = shared.loc["merge_statistics"]
    assert merged[["expected", "present", "failure"]].tolist() == [3, 1, "not run"]
    waits = "not run: gather_statistics 2-of-2 has no result"
    assert merged["reason"] == f"all: {waits}; held_out: {waits}"
    assert shared.loc["select_ranks", ["model", "reason"]].tolist() == ["ae_nmf", waits]
    trained = table.query("step == 'train'")
    assert trained["failure"].tolist() == ["not run"] * 4
    assert (trained["reason"] == waits).all()
    shown = overview(table).set_index("model")
    assert shown.loc[SHARED, "gather_statistics"] == "1 of 2"
    assert shown.loc[SHARED, "failures"] == "gather_statistics: bad input"
    assert (shown.drop(SHARED)["failures"] == "not run").all()


def test_what_was_removed_after_its_use_is_no_gap_and_a_fit_fails_by_itself(folder):
    fits = [f"{cell['model']}/rank-8/seed-{cell['seed']}/result.h5ad" for cell in folder.grid]
    folder.make("filtered.h5ad", "statistics/all.h5", "ae_nmf/rank_selection.tsv", *fits)
    table = folder.coverage()
    assert (table.query("seed.isna() or step == 'train'")["status"] == "ok").all(), "the shards are temporary"
    assert SHARED not in set(overview(table)["model"])
    (folder.results / "demo" / fits[-1]).unlink()
    (folder.results / "demo" / "statistics/all.h5").unlink()
    folder.write("train-cae_nmf1-1.log", "12:00:00 train ends with exit code 4: memory\n")
    folder.write("merge_statistics-all.log", "12:00:01 merge_statistics done in 1.0 s, peak memory 1 MB\n")
    table = folder.coverage().set_index(["step", "model", "seed"])
    assert table.loc[("train", "cae_nmf1", 1), "failure"] == "memory"


def test_every_shared_job_has_its_row_of_resources_and_its_bar(folder):
    folder.write("filter_donors-.tsv", BENCHMARK.format(3, 100))
    for name, seconds in (("gather_statistics-1-of-2", 9), ("gather_statistics-2-of-2", 7)):
        folder.write(f"{name}.tsv", BENCHMARK.format(seconds, 500))
    folder.write("gather_statistics-1-of-2.log", DONE)
    folder.write("select_ranks-ae_nmf.tsv", BENCHMARK.format(60, 800))
    table = collect_resources(folder.grid, folder.results, jobs=folder.jobs)
    assert table[["step", "model", "part", "seconds"]].fillna("").to_numpy().tolist() == [
        ["filter_donors", "", "", 3.0],
        ["gather_statistics", "", "1-of-2", 9.0],
        ["gather_statistics", "", "2-of-2", 7.0],
        ["select_ranks", "ae_nmf", "", 60.0],
    ]
    assert table.query("part == '1-of-2'")[["threads", "device"]].to_numpy().tolist() == [[2, "cuda"]]
    assert table["gpu_share"].fillna(-1).tolist() == [-1, 0.25, -1, -1]
    assert table[["rank", "seed"]].isna().all(axis=None)
    shown = table.assign(device="cpu")
    figure = resources_figure(shown)
    names = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert names == [
        "other steps, all models",
        "filter_donors",
        "gather_statistics, 2 threads",
        "select_ranks",
    ]


def test_the_tables_of_a_dataset_tell_both(folder):
    folder.make("filtered.h5ad")
    folder.write("filter_donors-.tsv", BENCHMARK.format(3, 100))
    paths = collect_dataset(
        "demo", folder.grid, folder.results, folder.results / "demo" / "tables", jobs=folder.jobs
    )
    assert read_table(paths["resources.tsv"])["step"].tolist() == ["filter_donors"]
    lines = paths["coverage.tsv"].read_text().splitlines()
    assert lines[2].startswith("demo\tNA\tNA\tNA\tgather_statistics\tNA\t2\t0\tmissing\tnot run")
    assert "demo\tae_nmf\t8\t1\ttrain" in "\n".join(lines), "ranks and seeds stay whole"
