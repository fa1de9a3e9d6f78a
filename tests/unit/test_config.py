"""The configuration: defaults, messages, generated files, and its agreement with the estimators."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import yaml

from nmfbench.config import load_config
from nmfbench.config.generate import main as generate
from nmfbench.errors import InputError

SMALLEST = {"datasets": {"demo": {"simulate": {}}}}


def with_models(**models):
    return load_config({**SMALLEST, "models": models})


def refusal(mapping) -> str:
    with pytest.raises(InputError) as caught:
        load_config(mapping, where="mine.yaml")
    return str(caught.value)


def test_defaults_are_the_published_protocol():
    cfg = load_config(SMALLEST)
    assert list(cfg.models) == ["base_nmf", "ae_nmf", "cae_nmf1", "cae_nmf2"]
    assert cfg.ranks == [80]
    assert cfg.datasets["demo"].min_cells_per_donor == 5000
    clustering = cfg.clustering
    assert (clustering.n_neighbours, clustering.resolution, clustering.n_iterations) == (25, 0.8, 2)
    assert clustering.seeds == list(range(10))
    assert cfg.classification.seeds == [42, 52, 62, 72, 82]
    assert cfg.classification.min_cells_per_class == 10


@pytest.mark.parametrize("name", ["config", "demo", "example"])
def test_the_configs_we_ship_are_valid(repository, name):
    mapping = yaml.safe_load((repository / "config" / f"{name}.yaml").read_text())
    assert load_config(mapping).datasets


def test_every_mistake_is_named_at_once():
    text = refusal(
        {
            "datasets": {"demo": {"simulate": {"n_cels": 3}}, "x": {"url": "http://localhost/x"}, "y": {}},
            "models": {
                "ae_nmf": {"max_itr": 3},
                "aenmf": {},
                "mine": {"kind": "cae_nmf1", "penalty_U": -1},
            },
            "seed": [1],
            "ranks": [0],
        }
    )
    for expected in (
        "mine.yaml: 8 mistakes",
        "datasets.demo.simulate.n_cels: unknown key; did you mean 'n_cells'?",
        "datasets.x: a url needs its sha256",
        "datasets.y: exactly one of path, url and simulate is needed",
        "models.ae_nmf.max_itr: unknown key; did you mean 'max_iter'?",
        "models.aenmf: no such model",
        "models.mine.penalty_U: Input should be greater than or equal to 0, got -1",
        "seed: unknown key; did you mean 'seeds'?",
        "ranks.0: Input should be greater than or equal to 1, got 0",
    ):
        assert expected in text


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"labels": ["tissue"]}, "datasets.demo.keep_obs"),
        ({"ranks": [10, 10]}, "holds a value twice"),
        (
            {"models": {"ae_nmf": {"display_name": "X"}, "cae_nmf1": {"display_name": "X"}}},
            "share a display_name",
        ),
        ({"models": {}}, "models: Dictionary should have at least 1 item"),
        ({"labels": ["cell/type"]}, "labels.0: a name of a column of obs, without slashes"),
        (
            {"datasets": {"demo": {"simulate": {}, "condition_columns": ["donor_id", "assay"]}}},
            "cae_nmf2 is conditioned on one column",
        ),
        ({"datasets": {"Demo": {"simulate": {}}}}, "datasets.Demo: String should match pattern"),
        ({"datasets": {}}, "datasets: Dictionary should have at least 1 item"),
    ],
)
def test_what_does_not_fit_together_is_refused(change, expected):
    assert expected in refusal({**SMALLEST, **change})


def test_variants_have_a_name_and_a_kind():
    cfg = with_models(ae_nmf={}, ae_slow={"kind": "ae_nmf", "max_iter": 7})
    assert cfg.models["ae_slow"].max_iter == 7
    assert cfg.display_name("ae_nmf") == "AE_NMF"
    assert cfg.display_name("ae_slow") == "ae_slow"


def test_published_training_is_one_word_and_explicit_keys_win():
    cfg = with_models(cae_nmf2={"training": "published"}, ae_nmf={"training": "published", "init": "random"})
    published = cfg.models["cae_nmf2"]
    assert (published.init, published.batches, published.row_norm) == ("uniform", "round_robin", True)
    assert (published.solver, with_models(cae_nmf2={}).models["cae_nmf2"].solver) == ("minibatch", "auto")
    assert cfg.models["ae_nmf"].init == "random"
    assert cfg.models["ae_nmf"].row_norm is False


def test_a_config_is_frozen():
    cfg = load_config(SMALLEST)
    with pytest.raises(ValueError, match="frozen"):
        cfg.device = "cuda"


def test_generated_files_are_fresh(capsys):
    assert generate(["--check"]) == 0, capsys.readouterr().err


def test_every_key_is_explained(repository):
    text = (repository / "config" / "README.md").read_text()
    schema = json.loads((repository / "config" / "config.schema.json").read_text())
    keys = {key for section in (schema, *schema["$defs"].values()) for key in section.get("properties", {})}
    assert keys - {"kind"} == set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys; import nmfbench, nmfbench.plan, nmfbench.revisions, nmfbench.manifest; "
        "heavy = {'torch', 'scanpy', 'sklearn', 'anndata', 'pandas', 'numpy', 'matplotlib'}; "
        "heavy &= set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_the_bare_package_is_fast():
    code = "import time; s = time.perf_counter(); import nmfbench; assert time.perf_counter() - s < 0.2"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("only", [{"init": "uniform"}, {"row_norm": True}])
def test_what_only_minibatches_have_is_refused_beside_statistics(only):
    with pytest.raises(InputError, match="solver: minibatch"):
        with_models(ae_nmf={"solver": "statistics", **only})
    assert with_models(ae_nmf=only).models["ae_nmf"].solver == "auto"


def test_comparisons_name_fits_of_the_grid_once():
    grid = {**SMALLEST, "ranks": [3, 5], "seeds": [1, 2, 3]}
    assert load_config(grid).compared_fits() == []
    pair = {"first": {"model": "ae_nmf"}, "second": {"model": "cae_nmf1", "rank": 5, "seed": 2}}
    both = {"first": {"model": "ae_nmf"}, "second": {"model": "cae_nmf1"}}
    cfg = load_config({**grid, "comparisons": [pair, both, pair]})
    assert cfg.compared_fits() == [
        (("ae_nmf", 5, 1), ("cae_nmf1", 5, 2)),
        (("ae_nmf", 3, 1), ("cae_nmf1", 3, 1)),
        (("ae_nmf", 5, 1), ("cae_nmf1", 5, 1)),
    ]
    cfg = load_config({**grid, "comparisons": [{"seeds_of": "ae_nmf"}]})
    assert cfg.compared_fits() == [
        (("ae_nmf", rank, 1), ("ae_nmf", rank, seed)) for rank in (3, 5) for seed in (2, 3)
    ]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"seed_of": "ae_nmf"}, "comparisons.0.seed_of: unknown key; did you mean 'seeds_of'?"),
        (
            {"first": {"model": "ae_nmf", "rnk": 3}},
            "comparisons.0.first.rnk: unknown key; did you mean 'rank'?",
        ),
        ({"seeds_of": "aenmf"}, "comparisons.0.seeds_of: 'aenmf' is not one of the models"),
        ({"seeds_of": "ae_nmf"}, "comparisons.0.seeds_of: it needs two seeds, got [42]"),
        ({"first": {"model": "ae_nmf"}}, "either first and second, or seeds_of, is needed"),
        (
            {"first": {"model": "ae_nmf", "rank": 4}, "second": {"model": "cae_nmf1"}},
            "comparisons.0.first.rank: 4 is not one of the ranks [80]",
        ),
        (
            {"first": {"model": "ae_nmf", "seed": 42}, "second": {"model": "ae_nmf"}},
            "comparisons.0: a fit is compared with itself",
        ),
    ],
)
def test_comparisons_that_cannot_be_made_are_refused(entry, expected):
    assert expected in refusal({**SMALLEST, "comparisons": [entry]})
