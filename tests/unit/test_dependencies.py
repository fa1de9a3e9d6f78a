"""One set of versions: the lock, the conda environments and the page that explains them."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
import yaml

import nmfbench
from nmfbench.models import MODELS, get_card
from nmfbench.packages import HARMONYPY, Package, missing_packages
from test_imports import read_imports

ENVIRONMENTS = sorted(path.stem for path in (Path(__file__).parents[2] / "envs").glob("*.yaml"))


def locked(repository):
    lines = (repository / "requirements.lock").read_text().splitlines()
    return dict(line.lower().split("==") for line in lines if "==" in line)


def direct(repository):
    lines = (repository / "requirements.in").read_text().splitlines()
    return {re.split(r"[=<>]", line)[0] for line in lines if line and not line.startswith("#")}


def test_every_line_of_the_lock_is_a_pinned_version(repository):
    lines = (repository / "requirements.lock").read_text().splitlines()
    assert all(re.fullmatch(r"#.*|[A-Za-z0-9_.-]+==[\w.]+", line) for line in lines)


EXTRAS = {"gseapy", "harmonypy", "scib-metrics", "scvi-tools"}  # what one choice of the config needs alone


def test_the_lock_of_python_3_12_holds_every_direct_dependency_and_no_build_of_cuda(repository):
    lines = (repository / "requirements-3.12.lock").read_text().splitlines()
    assert all(re.fullmatch(r"#.*|[A-Za-z0-9_.-]+==[\w.]+", line) for line in lines)
    names = {line.lower().split("==")[0] for line in lines if "==" in line}
    assert direct(repository) <= names
    assert not [name for name in names if name.startswith(("nvidia-", "cuda-", "triton"))]


def test_the_package_asks_for_what_is_locked(repository):
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    wanted = {line for line in (repository / "requirements.in").read_text().splitlines() if line[:1] != "#"}
    assert set(project["dependencies"]) <= wanted
    assert set(project["optional-dependencies"]["workflow"]) <= wanted
    site = (repository / "docs" / "site" / "requirements.txt").read_text().split()
    assert project["optional-dependencies"]["docs"] == site


def test_pre_commit_has_the_versions_of_the_lock(repository):
    hooks = yaml.safe_load((repository / ".pre-commit-config.yaml").read_text())["repos"]
    revisions = {Path(repo["repo"]).name: repo["rev"].removeprefix("v") for repo in hooks}
    assert revisions["ruff-pre-commit"] == locked(repository)["ruff"]
    assert revisions["snakefmt"] == locked(repository)["snakefmt"]


@pytest.mark.parametrize("name", [".github/workflows/tests.yml", ".github/workflows/docs.yml"])
def test_continuous_integration_calls_targets_that_there_are(repository, name):
    jobs = yaml.safe_load((repository / name).read_text())["jobs"]
    targets = set(re.findall(r"^([a-z-]+):", (repository / "Makefile").read_text(), flags=re.MULTILINE))
    runs = [step["run"].split() for job in jobs.values() for step in job["steps"] if "run" in step]
    called = [words[1] for words in runs if words[0] == "make"]
    assert called
    assert set(called) <= targets


def test_containers_hold_the_locked_environment_of_its_python(repository):
    recipes = [(repository / "containers" / name).read_text() for name in ("Dockerfile", "apptainer.def")]
    bases = [re.search(r"^(?:FROM|From:) (\S+)$", recipe, re.MULTILINE).group(1) for recipe in recipes]
    python = re.search(r"Python (3\.\d+)", (repository / "requirements.lock").read_text()).group(1)
    assert bases[0] == bases[1]
    assert bases[0].startswith(f"python:{python}-")
    for recipe in recipes:
        assert "--requirement requirements.lock" in recipe
        assert not re.findall(r"\b[A-Za-z-]+==\d", recipe), "versions are those of the lock"


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_environments_carry_the_versions_of_the_lock(repository, name):
    pins = pinned(repository, name)
    assert pins == {package: locked(repository).get(package, pins[package]) for package in pins}
    assert set(pins) - set(locked(repository)) <= EXTRAS


def pinned(repository, name):
    """Versions in a conda environment, by package."""
    environment = yaml.safe_load((repository / "envs" / f"{name}.yaml").read_text())
    return dict(pin.split("==") for pin in environment["dependencies"][-1]["pip"])


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def installed_by(pins):
    """Distributions that come with those that are named, as far as they are installed here."""
    found, todo = set(), [plain(pin) for pin in pins]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            try:
                wanted = metadata.requires(name) or []
            except metadata.PackageNotFoundError:
                continue
            todo += [plain(re.match(r"[\w.-]+", one).group()) for one in wanted if "extra ==" not in one]
    return found


distributions = cache(metadata.packages_distributions)


MODEL_JOBS = ["train_model", "score_held_out_counts"]  # in the environment of their model


def scripts_by_environment(repository):
    """Names of job scripts, by the conda environment that their rules name or a config may."""
    found = {}
    for file in sorted((repository / "workflow" / "rules").glob("*.smk")):
        for rule in re.split(r"^\s*rule\b", file.read_text(), flags=re.MULTILINE)[1:]:
            environment = re.search(r'conda:\s+"../../envs/(\w+).yaml"', rule)
            script = re.search(r'script:\s+"../../scripts/(\w+).py"', rule)
            if environment and script:
                found.setdefault(environment.group(1), []).append(script.group(1))
    found["evaluation"].append("enrich_factors")
    found["enrichment"] = ["enrich_factors"]
    found["kbet"] = ["score_integration"]
    for name in {get_card(kind).environment for kind in MODELS}:
        found[name] = [*found.get(name, []), *MODEL_JOBS]
    return found


IMPORT_WITHOUT = """
import ast, importlib, importlib.metadata as metadata, re, sys

allowed, scripts = set(sys.argv[1].split(",")), sys.argv[2].split(",")
plain = lambda name: re.sub(r"[-_.]+", "-", name).lower()
owners = metadata.packages_distributions()

class OutsideTheEnvironment:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top != "nmfbench" and top in owners and not allowed & {plain(one) for one in owners[top]}:
            raise ModuleNotFoundError(f"{name} is not in the environment", name=name)

sys.meta_path.insert(0, OutsideTheEnvironment())
for script in scripts:
    for node in ast.walk(ast.parse(open(script).read())):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("nmfbench"):
            importlib.import_module(node.module)
"""


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_an_environment_has_what_its_jobs_import(repository, name):
    scripts = [repository / "scripts" / f"{script}.py" for script in scripts_by_environment(repository)[name]]
    arguments = [",".join(installed_by(pinned(repository, name))), ",".join(map(str, scripts))]
    ran = subprocess.run([sys.executable, "-c", IMPORT_WITHOUT, *arguments], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-800:]


@pytest.fixture(scope="module")
def imported(repository):
    """Modules that a kind's estimator needs, and what each imports from elsewhere, in functions too."""
    root = repository / "scripts" / "nmfbench"
    graph = read_imports(root)

    @cache
    def imports_of(module):
        path = root.parent.joinpath(*module.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        names = set()
        for node in ast.walk(ast.parse(path.read_text())):
            names |= {one.name for one in node.names} if isinstance(node, ast.Import) else set()
            names |= {node.module} if isinstance(node, ast.ImportFrom) and node.module else set()
        return {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) - {"nmfbench"}

    def of_kind(kind):
        todo, seen, found = [f"nmfbench.models.{MODELS[kind]}"], set(), {}
        while todo:
            module = todo.pop()
            if module in seen:
                continue
            seen.add(module)
            todo += [one for one in graph[module] if one.startswith(("nmfbench.models.", "nmfbench.comp"))]
            found |= dict.fromkeys(imports_of(module), module)
        return found

    return of_kind


@pytest.mark.parametrize("kind", MODELS)
def test_the_environment_of_a_model_has_all_that_its_estimator_imports(repository, imported, kind):
    environment = get_card(kind).environment
    pins = {plain(pin) for pin in pinned(repository, environment)}
    allowed, owners = installed_by(pins), distributions()
    found = imported(kind)
    assert "numpy" in found
    for name, module in found.items():
        # of a package that is not installed here, such as scvi-tools, the name alone is known
        by = {plain(one) for one in owners.get(name, [])} or {
            pin for pin in pins if pin == plain(name) or pin.startswith(f"{plain(name)}-")
        }
        assert by & allowed, f"{module} imports {name}, which envs/{environment}.yaml does not have"


def test_every_direct_dependency_is_locked_and_has_a_reason(repository):
    names = direct(repository)
    assert names <= set(locked(repository))
    page = (repository / "docs" / "dependencies.md").read_text()
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| ")]
    explained = {name.strip() for row in rows for name in row.split(",")} - {"package"}
    assert explained == names


def test_scripts_use_this_checkout_and_no_installed_copy(repository):
    assert repository in __import__("pathlib").Path(nmfbench.__file__).parents


def test_a_package_that_is_missing_is_said_before_the_run():
    absent = Package("no-such-thing==1.0", "no_such_thing", "harmony")
    models = [("mine", absent), ("there", HARMONYPY._replace(module="numpy")), ("ours", None)]
    (message,) = missing_packages(models)
    assert "mine" in str(message)
    assert "no-such-thing==1.0" in str(message)
    assert "envs/harmony.yaml" in str(message)
