"""The workflow deployed by snakedeploy: its rules are read out of a repository, here one on disk."""

from __future__ import annotations

import shutil
import subprocess

import pytest
import yaml

from snake import REPOSITORY, snakemake
from test_places import FILTERED, demo

URL = "https://github.com/someone/nmfbench"
#: What ``snakedeploy deploy-workflow`` writes; used where it is not installed.
DEPLOYED = """
configfile: "config/config.yaml"

module nmfbench:
    snakefile: github("someone/nmfbench", path="workflow/Snakefile", tag="v0.1.0")
    config: config

use rule * from nmfbench
"""


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    """A folder as snakedeploy makes it, of this very tree under a tag; git finds the remote on disk."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield deploy(tmp_path_factory.mktemp("deployed"), monkeypatch)


def deploy(tmp_path, monkeypatch):
    work = tmp_path / "work"
    git = ("git", "-C", str(REPOSITORY))
    try:
        listed = subprocess.run([*git, "ls-files", "-z"], check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    for name in filter(None, listed.split("\0")):
        if (REPOSITORY / name).is_file():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / name, work / name)
    identity = ("-c", "user.name=someone", "-c", "user.email=someone@example.org")
    remote = tmp_path / "remotes" / "someone" / "nmfbench"
    for command in (
        ("init", "-q", "-b", "main"),
        ("add", "-A"),
        (*identity, "commit", "-qm", "As it is"),
        ("tag", "v0.1.0"),
        ("clone", "-q", "--bare", ".", str(remote)),
    ):
        subprocess.run(["git", *command], cwd=work, check=True)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.file://{tmp_path}/remotes/.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "https://github.com/")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "deployed"
    if snakedeploy := shutil.which("snakedeploy"):
        command = [snakedeploy, "deploy-workflow", URL, str(folder), "--tag", "v0.1.0"]
        subprocess.run(command, check=True, capture_output=True)
    else:
        shutil.copytree(REPOSITORY / "config", folder / "config")
        (folder / "workflow").mkdir()
        (folder / "workflow" / "Snakefile").write_text(DEPLOYED)
    return folder


def test_a_deployed_workflow_plans_and_runs(deployed):
    values = demo(deployed) | {"models": {"base_nmf": {"max_iter": 2}}, "ranks": [3]}
    (deployed / "config" / "config.yaml").write_text(yaml.safe_dump(values))
    call = snakemake(FILTERED, cwd=deployed)
    assert call.code == 0, call.text
    assert (deployed / FILTERED).exists()


def test_without_the_package_it_says_what_to_install(deployed, monkeypatch):
    hidden = deployed.parent / "hidden"
    hidden.mkdir()
    (hidden / "nmfbench.py").write_text("raise ModuleNotFoundError(\"No module named 'nmfbench'\")\n")
    monkeypatch.setenv("PYTHONPATH", str(hidden))
    call = snakemake("-n", cwd=deployed)
    assert call.code != 0
    assert "the package nmfbench is not installed" in call.text
    assert "pip install" in call.text
    assert "Traceback" not in call.text
