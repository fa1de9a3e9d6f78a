"""The package beside the rules is the one that runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import nmfbench
from nmfbench.checkout import check_package, lend_to_jobs
from nmfbench.errors import InputError


def test_the_package_of_another_checkout_is_refused(tmp_path):
    (tmp_path / "nmfbench").mkdir()
    with pytest.raises(InputError, match="another checkout") as caught:
        check_package(str(tmp_path))
    assert str(tmp_path) in str(caught.value)
    assert str(Path(nmfbench.__file__).parent) in str(caught.value)


def test_its_own_is_not_even_through_a_link(tmp_path):
    own = Path(nmfbench.__file__).parents[1]
    (tmp_path / "link").symlink_to(own)
    for scripts in (str(own), str(tmp_path / "link"), str(tmp_path), None):
        check_package(scripts)


def test_jobs_find_it_first_and_once(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["/mine", "/here/scripts"]))
    lend_to_jobs("/here/scripts")
    lend_to_jobs("/here/scripts")
    assert os.environ["PYTHONPATH"].split(os.pathsep) == ["/here/scripts", "/mine"]
    monkeypatch.delenv("PYTHONPATH")
    lend_to_jobs("/here/scripts")
    assert os.environ["PYTHONPATH"] == "/here/scripts"
