"""One set of versions: the lock, the conda environments and the page that explains them."""

from __future__ import annotations

import re

import pytest
import yaml

import nmfbench


def locked(repository):
    lines = (repository / "requirements.lock").read_text().splitlines()
    return dict(line.lower().split("==") for line in lines if "==" in line)


def direct(repository):
    lines = (repository / "requirements.in").read_text().splitlines()
    return {re.split(r"[=<>]", line)[0] for line in lines if line and not line.startswith("#")}


def test_every_line_of_the_lock_is_a_pinned_version(repository):
    lines = (repository / "requirements.lock").read_text().splitlines()
    assert all(re.fullmatch(r"#.*|[A-Za-z0-9_.-]+==[\w.]+", line) for line in lines)


EXTRAS = {"gseapy"}  # what one choice of the config needs alone


@pytest.mark.parametrize("name", ["data", "models", "evaluation", "report", "enrichment"])
def test_environments_carry_the_versions_of_the_lock(repository, name):
    environment = yaml.safe_load((repository / "envs" / f"{name}.yaml").read_text())
    pins = dict(pin.split("==") for pin in environment["dependencies"][-1]["pip"])
    assert pins == {package: locked(repository).get(package, pins[package]) for package in pins}
    assert set(pins) - set(locked(repository)) <= EXTRAS


def test_every_direct_dependency_is_locked_and_has_a_reason(repository):
    names = direct(repository)
    assert names <= set(locked(repository))
    page = (repository / "docs" / "dependencies.md").read_text()
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| ")]
    explained = {name.strip() for row in rows for name in row.split(",")} - {"package"}
    assert explained == names


def test_scripts_use_this_checkout_and_no_installed_copy(repository):
    assert repository in __import__("pathlib").Path(nmfbench.__file__).parents
