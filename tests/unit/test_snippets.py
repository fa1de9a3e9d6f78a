"""Snippets of README and docs: Python runs on small data, YAML can be read, commands are those there are."""

from __future__ import annotations

import re
import shlex
import textwrap
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml

from nmfbench import cli

REPOSITORY = Path(__file__).parents[2]
PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    *sorted((REPOSITORY / "docs").rglob("*.md")),
    *(REPOSITORY / name / "README.md" for name in ("config", "profiles")),
]
TARGETS = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE))


def snippets(kind: str) -> list:
    found = []
    for page in PAGES:
        name = page.relative_to(REPOSITORY).as_posix()
        blocks = re.findall(rf"^( *)```{kind}\n(.*?)^ *```", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        found += [pytest.param(textwrap.dedent(code), id=f"{name}-{i}") for i, (_, code) in enumerate(blocks)]
    return found


@pytest.mark.parametrize("code", snippets("python"))
def test_python_is_python_and_imports_what_is_there(code):
    tree = compile(code, "snippet", "exec", flags=0x400)  # ast.PyCF_ONLY_AST
    for node in tree.body:
        name = getattr(node, "module", None)
        if name and name.split(".")[0] == "nmfbench":
            module = __import__(name, fromlist=["*"])
            assert all(hasattr(module, alias.name) for alias in node.names), name


@pytest.mark.parametrize("text", snippets("yaml"))
def test_yaml_can_be_read(text):
    assert yaml.safe_load(text) is not None


def commands() -> list:
    found = []
    for block in snippets("bash"):
        for i, line in enumerate(block.values[0].splitlines()):
            for part in line.split("&&"):
                words = shlex.split(part, comments=True)
                if words:
                    found.append(pytest.param(words, id=f"{block.id}-{i}"))
    return found


@pytest.mark.parametrize("words", commands())
def test_commands_are_those_there_are(words, monkeypatch):
    if words[0] == "make":
        assert {word for word in words[1:] if "=" not in word} <= TARGETS
    elif words[0] == "nmfbench":
        asked = []
        for module, _ in cli.COMMANDS.values():
            command = __import__(f"nmfbench.cli.{module}", fromlist=["run"])
            monkeypatch.setattr(command, "run", asked.append)
        assert cli.main(words[1:]) == 0, words
        assert len(asked) == 1
    elif words[0] == "snakemake":
        from snakemake.cli import parse_args

        monkeypatch.chdir(REPOSITORY)
        parse_args([word for word in words[1:] if word != "..."])  # leaves by an error where it cannot
        ours = [word for word in words if word.startswith(("config/", "profiles/"))]
        assert all((REPOSITORY / word).exists() for word in ours)
    else:
        assert words[0] in {
            "source",
            "git",
            "cd",
            "pre-commit",
            "pip",
            "snakedeploy",
            "tensorboard",
            ".venv/bin/pytest",
        }, words


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A folder with the tables and one result of a demo, and a file of one's own."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"cell_type": ["B", "T", "NK"] * 40, "donor_id": [f"d{i % 4}" for i in range(120)]})
    obs.index = [f"c{i}" for i in range(120)]
    counts = rng.poisson(2.0, (120, 60)).astype(np.float32)
    anndata.AnnData(counts, obs=obs).write_h5ad("mydata.h5ad")
    tables = tmp_path / "results" / "demo" / "tables"
    tables.mkdir(parents=True)
    models = {"ae_nmf": "AE_NMF", "base_nmf": "Base_NMF"}
    for label in ("cell_type", "donor_id"):
        csv = pd.DataFrame(
            {"Model": models.values(), "ARI": 0.4, "ARI Std": 0.1, "NMI": [0.4, 0.5], "NMI Std": 0.1}
        )
        csv.to_csv(tables / f"clustering_metrics_by_{label}_k12.csv", index=False)
    keys = [(m, l) for m in models for l in ("cell_type", "donor_id")]
    scores = [
        {"model": m, "label": l, "metric": metric, "rank": 12, "seed": 42, "value": 0.5, "std": 0.1, "n": 10,
         "uses_labels": "", "status": "ok"}
        for m, l in keys for metric in ("ARI", "NMI", "F1", "AUROC")
    ]  # fmt: skip
    pd.DataFrame(scores).to_csv(tables / "scores.tsv", sep="\t", index=False)
    folds = [
        {"model": m, "label": l, "rank": 12, "seed": 42, "cv_seed": 42, "fold": fold, "classifier": name,
         "F1": rng.random(), "AUROC": rng.random(), "status": "ok"}
        for m, l in keys for fold in range(3) for name in ("knn", "random_forest")
    ]  # fmt: skip
    pd.DataFrame(folds).to_csv(tables / "folds.tsv", sep="\t", index=False)
    return tmp_path


TUTORIAL = [block for block in snippets("python") if "from_csv_to_figures" in block.id]


@pytest.mark.parametrize("code", TUTORIAL)
def test_the_tutorial_of_figures_runs(code, finished):
    import matplotlib

    matplotlib.use("Agg")
    exec(compile(code, "snippet", "exec"), {})


@pytest.mark.filterwarnings("ignore")
def test_the_ten_lines_of_the_readme_end_with_something_to_see(finished):
    import matplotlib

    matplotlib.use("Agg")
    (code,) = (block.values[0] for block in snippets("python") if block.id.startswith("README"))
    exec(compile(code.replace("n_components=30", "n_components=5"), "README", "exec"), {})
    assert (finished / "umap.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    targets = re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", text)
    made_by_the_site = {"gallery.md"}
    lost = [t for t in targets if not (page.parent / t).exists() and Path(t).name not in made_by_the_site]
    assert not lost
