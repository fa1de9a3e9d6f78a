"""Fits that share a GPU job: which do, what they ask for, and in how much of it the card worked."""

from __future__ import annotations

import time

import pytest

from nmfbench import gpu_use
from nmfbench.cluster import Site
from nmfbench.gpu_use import GpuUse
from nmfbench.models import get_card
from nmfbench.shared_gpu import BEFORE_A_FIT, SHORT_FIT, expected_seconds, minutes_of


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


@pytest.mark.gpu
def test_a_card_that_works_is_seen():
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    use, X = GpuUse.of("cuda"), torch.rand((4096, 4096), device="cuda")
    end = time.monotonic() + 3.5
    while time.monotonic() < end:
        X @ X
        torch.cuda.synchronize()
    use.stop()
    assert use.share is None or use.share > 0.3
