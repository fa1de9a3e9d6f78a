"""Fits that share a GPU job: which do, what they ask for, and in how much of it the card worked."""

from __future__ import annotations

import asyncio
import importlib.util
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from nmfbench import gpu_use
from nmfbench.cluster import Site
from nmfbench.gpu_use import GpuUse
from nmfbench.models import get_card
from nmfbench.shared_gpu import (
    BEFORE_A_FIT,
    SHORT_FIT,
    expected_seconds,
    let_groups_fall_apart,
    minutes_of,
    say_why_groups_fail,
)


def test_an_atlas_has_a_job_of_its_own_and_a_study_shares_one():
    assert expected_seconds(1.1e9, 80, {"statistics": 100, "minibatch": 500}) > SHORT_FIT
    assert expected_seconds(1.5e6, 80, 500) < SHORT_FIT
    assert expected_seconds(0, 80, None) == BEFORE_A_FIT
    assert expected_seconds(3e7, 10, {"a": 10, "b": None}) == pytest.approx(BEFORE_A_FIT + 0.5)
    assert expected_seconds(3e7, 10, None) == pytest.approx(BEFORE_A_FIT + 10)
    assert minutes_of(60) == 13, "no job asks for less than ten minutes"


@pytest.mark.parametrize(
    ("kind", "settings", "passes"),
    [
        ("ae_nmf", {}, 100),
        ("ae_nmf", {"max_iter": {"statistics": 7}}, 100),
        ("ae_nmf", {"max_iter": 3}, 3),
        ("pyro_exponential", {}, 200),
        ("pyro_exponential", {"inference": "svi"}, 2000),
        ("nb_hierarchical", {"preset": "published"}, 300_000),
        ("pca", {}, None),
    ],
)
def test_each_model_says_how_many_passes_it_may_take(kind, settings, passes):
    assert get_card(kind).section(**settings).passes() == passes


def test_fits_share_a_job_where_the_profile_says_so():
    assert Site(gpu_request="gpus", fits_per_gpu_job=8).shares_gpu_jobs
    assert not Site(gpu_request="gpus", fits_per_gpu_job=1).shares_gpu_jobs
    assert not Site(gpu_request="gpus").shares_gpu_jobs, "a profile of before"
    assert not Site(gpu_request="none", fits_per_gpu_job=8).shares_gpu_jobs
    assert not Site().shares_gpu_jobs


def test_the_share_is_the_mean_over_time():
    told = iter([1.0, 0.0, 0.5, None])
    use = GpuUse(lambda: next(told), every=0.02)
    use._thread.join(5)
    assert use.share == pytest.approx(0.5, abs=0.15)
    use.stop()


def test_without_a_card_there_is_no_share():
    for device in ("cpu", "mps"):
        use = GpuUse.of(device)
        time.sleep(0.01)
        use.stop()
        assert use.share is None
    assert gpu_use._told_by(["echo", "73"]) is None, "its words are not a number"
    assert gpu_use._told_by(["no-such-program"]) is None


def test_what_nvidia_smi_says_is_a_share(tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 73\n")
    program.chmod(0o755)
    assert gpu_use._told_by([str(program), "-i", "GPU-1"]) == 0.73
    program.write_text("#!/bin/sh\necho '[N/A]'\n")
    assert gpu_use._told_by([str(program)]) is None


# ---- a group that fails, with what the scheduler and its graph hold


class Fit:
    """A job of Snakemake as far as a group that falls apart asks."""

    def __init__(self, name, restart_times=1, **state):
        self.name, self.restart_times, self.attempt = name, restart_times, 1
        self.state, self.post, self.group = state, [], "fits"
        self.output = [SimpleNamespace(exists=self._exists)]
        self.rule = SimpleNamespace(name="train_ae_nmf")

    async def _exists(self):
        return self.state.get("written", False)

    async def postprocess(self, **how):
        self.post.append(how)


class Group(list):
    def is_group(self):
        return True


def played(*fits, remote=False, holds=lambda fit: True):
    """What a scheduler holds after the job of these fits has failed."""
    group, finished = Group(fits), []

    async def incomplete(fit):
        return [fit.name] if fit.state.get("marked") else []

    async def finish(fit):
        dag._running.remove(fit)
        finished.append(fit)

    dag = SimpleNamespace(_running=Held([group]), _ready_jobs=Held(), _group={}, finish=finish)
    workflow = SimpleNamespace(
        dag=dag, dryrun=False, remote_exec=remote, async_run=asyncio.run,
        persistence=SimpleNamespace(incomplete=incomplete),
    )  # fmt: skip
    dag.workflow = workflow
    for fit in fits:
        fit.dag = dag

    class Scheduler:
        def _handle_error(self, job, postprocess_job=True):
            self.left_to_snakemake = job

        def _free_resources(self, job):
            self.freed = job

        def get_executor(self, job):
            return SimpleNamespace(handle_job_error=lambda job: None)

    let_groups_fall_apart(Scheduler, holds)
    let_groups_fall_apart(Scheduler, holds)  # once, whatever the number of times it is asked for
    scheduler = Scheduler()
    scheduler.workflow, scheduler.running, scheduler.failed = workflow, Held([group]), Held()
    scheduler.keepgoing, scheduler._errors, scheduler.finished_jobs = False, False, 0
    scheduler._handle_error(group)
    return scheduler, dag, finished


class Held(list):
    """A set of what has no hash here."""

    add = list.append

    def discard(self, item):
        if item in self:
            self.remove(item)


def test_a_group_that_fails_keeps_what_is_finished_and_tries_the_rest_again_one_by_one():
    done, half, never = Fit("done", written=True), Fit("half", written=True, marked=True), Fit("never")
    last = Fit("last", restart_times=0)
    scheduler, dag, finished = played(done, half, never, last)
    assert finished == [done]
    assert done.post == [{"check_output_mtime": False}]
    assert [fit.post for fit in (half, never, last)] == [[{"error": True}]] * 3, "their files are removed"
    assert list(dag._ready_jobs) == [half, never]
    assert [fit.attempt for fit in (done, half, never, last)] == [1, 2, 2, 1]
    assert half.group is None
    assert list(scheduler.failed) == [last]
    assert scheduler._errors
    assert not scheduler.running
    assert not dag._running
    assert not hasattr(scheduler, "left_to_snakemake")
    assert not scheduler.keepgoing, "which is the user's to say"


def test_within_the_job_the_next_fit_begins():
    scheduler, _, finished = played(Fit("a"), Fit("b", written=True), remote=True)
    assert scheduler.keepgoing
    assert len(finished) == 1


def test_other_groups_fail_as_a_whole():
    scheduler, _, finished = played(Fit("a", written=True), holds=lambda fit: False)
    assert scheduler.left_to_snakemake
    assert not finished


def test_snakemake_has_what_a_group_that_falls_apart_needs():
    """Read, not imported, which would take longer than all other tests here."""
    folder = Path(importlib.util.find_spec("snakemake").submodule_search_locations[0])
    scheduler = (folder / "scheduling" / "job_scheduler.py").read_text()
    dag = (folder / "dag.py").read_text()
    for text in (
        "_handle_error(self, job, postprocess_job",
        "_free_resources(self, job",
        "get_executor(self",
    ):
        assert f"def {text}" in scheduler
    for name in ("running", "failed", "_errors", "keepgoing", "finished_jobs"):
        assert f"self.{name}" in scheduler
    for name in ("_running", "_ready_jobs", "_group"):
        assert f"self.{name}" in dag
    assert "async def finish(self, job" in dag


@pytest.mark.gpu
def test_a_card_that_works_is_seen():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    use, X = GpuUse.of("cuda"), torch.rand((4096, 4096), device="cuda")
    end = time.monotonic() + 3.5
    while time.monotonic() < end:
        X @ X
        torch.cuda.synchronize()
    use.stop()
    assert use.share is None or use.share > 0.3


def test_fits_do_not_share_a_job_under_a_snakemake_that_is_not_known():
    class Other:
        def handle_error_of_another_name(self, job):
            pass

    assert not let_groups_fall_apart(Other, lambda fit: True)
    assert not hasattr(Other, "_handle_error")


def test_a_group_that_fails_says_why():
    said = []

    class Group:
        def log_error(self, msg=None, aux_logs=None, **more):
            said.append((aux_logs, more))  # Snakemake's own says nothing of `msg`

    for _ in range(2):
        say_why_groups_fail(Group, said.append)
    Group().log_error("sbatch: error: partition cpu has no GPUs", aux_logs=["a.log"], jobid=3)
    assert said == ["sbatch: error: partition cpu has no GPUs", (["a.log"], {"jobid": 3})]
