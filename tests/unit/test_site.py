"""What a job asks of a cluster, in the words of its profile."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from nmfbench.cluster import Site, gpu_asked
from nmfbench.errors import InputError


def site(**more):
    return Site(slurm_partition="short", gpu_partition="fast", **{"gpu_request": "gpus"} | more)


def test_without_a_profile_a_gpu_is_a_number_and_nothing_else():
    assert Site.of(None).gpu_resources(1) == {
        "gpu": 1,
        "gpu_model": None,
        "gres": None,
        "slurm_partition": None,
    }
    assert Site.of(None).megabytes(1e9) == 10**9
    assert not Site.of({"mem_mb": 3}).schedules


def test_the_keys_come_from_the_profile_as_it_was_written():
    given = {
        "gpu_request": SimpleNamespace(raw="gres"),
        "slurm_partition": SimpleNamespace(raw="'short'"),
        "max_gb": 64,
        "mem_mb": 1000,
    }
    assert Site.of(given) == Site("short", None, "gres", None, 64)


@pytest.mark.parametrize(
    ("settings", "gpus", "expected"),
    [
        ({}, 1, (1, None, None, "fast")),
        ({}, 0, (0, None, None, "short")),
        ({"gpu_model": "a100"}, 1, (1, "a100", None, "fast")),
        ({"gpu_model": "a100"}, 0, (0, None, None, "short")),
        ({"gpu_request": "gres"}, 1, (0, None, "gpu:1", "fast")),
        ({"gpu_request": "gres", "gpu_model": "a100"}, 1, (0, None, "gpu:a100:1", "fast")),
        ({"gpu_request": "none"}, 1, (0, None, None, "short")),
        ({"gpu_partition": None}, 1, (1, None, None, "short")),
    ],
)
def test_both_spellings_and_none(settings, gpus, expected):
    site_ = Site(**{"slurm_partition": "short", "gpu_partition": "fast", "gpu_request": "gpus"} | settings)
    assert tuple(site_.gpu_resources(gpus).values()) == expected


def test_an_unknown_spelling_is_refused():
    with pytest.raises(InputError, match="gpu_request"):
        site(gpu_request="gpu")


def test_requests_stop_growing_at_the_sites_limits():
    limited = site(max_gb=256, max_hours=72, gpu_max_hours=120)
    assert limited.megabytes(3000.7) == 3000
    assert limited.megabytes(1e6) == 256_000
    assert limited.minutes(1e6) == 72 * 60
    assert limited.minutes(1e6, n_gpus=1) == 120 * 60
    assert site(max_hours=72).minutes(1e6, n_gpus=1) == 72 * 60


@pytest.mark.parametrize(
    ("resources", "asked"),
    [
        ({"gpu": 1}, False),  # a workstation: nobody was asked
        ({"gpu": 1, "gpu_request": "gpus"}, True),
        ({"gpu": 0, "gpu_request": "gpus"}, False),
        ({"gpu": 0, "gres": "gpu:1", "gpu_request": "gres"}, True),
        ({"gpu": 0, "gres": "tmp:5G", "gpu_request": "gres"}, False),
    ],
)
def test_only_a_scheduler_can_be_asked(resources, asked):
    assert gpu_asked(resources) is asked
