"""What every model owes the workflow, over the whole registry: card, section, constructor, fit, texts.

A new model needs a row in `SMALL` (the settings of a quick fit) and a paragraph in docs/models.md; this file
says what else is amiss. Nothing else here names a model.
"""

from __future__ import annotations

import inspect
import itertools
import re

import numpy as np
import pytest
import scipy.sparse as sp
import yaml
from sklearn.base import clone

from nmfbench.config import load_config
from nmfbench.errors import InputError
from nmfbench.figures import palette
from nmfbench.models import MODELS, get_card, get_model
from nmfbench.models.card import ModelSection

SMALL = {
    "base_nmf": {"max_iter": 200},
    "ae_nmf": {"max_iter": {"statistics": 5}},
    "cae_nmf1": {"max_iter": {"statistics": 5}},
    "cae_nmf2": {"max_iter": {"statistics": 5}},
    "ae_nmf_common": {"max_iter": 5},
    "cae_nmf1_common": {"max_iter": 5},
    "cae_nmf2_common": {"max_iter": 5},
    "ae_nmf_split": {"max_iter": 5},
    "cae_nmf1_split": {"max_iter": 5},
    "cae_nmf2_split": {"max_iter": 5},
    "ae_nmf_blind": {"max_iter": 5},
    "cae_nmf1_blind": {"max_iter": 5},
    "cae_nmf2_blind": {"max_iter": 5},
    "pyro_gamma_nb": {"max_iter": 5, "marker_draws": 2},
    "pyro_exponential": {"max_iter": 5, "marker_draws": 2},
    "pnmf": {"max_iter": 5, "mode": "lower-bound"},
    "pnmf_donor": {"max_iter": 5, "mode": "lower-bound"},
    "pnmf_spatial": {"max_iter": 5, "mode": "lower-bound", "lengthscale": 3.0, "num_inducing": 20},
    "nb_hierarchical": {"max_iter": 20, "draws": 5},
    "pca": {},
    "harmony": {"max_iter": 2},
    "nmf_harmony": {"max_iter": 200, "max_rounds": 2},
    "scvi": {"max_iter": 2, "n_hidden": 8},
    "linear_scvi": {"max_iter": 2, "n_hidden": 8},
    "control_random": {},
    "control_shuffled": {},
    "control_pca_by_donor": {},
    "control_depth": {},
    "control_cell_type": {},
    "control_cell_type_noise": {},
    "control_donor": {},
    "external": {},
}
K, N, G = 3, 90, 40
FIT_ARGUMENTS = ("conditions", "strata", "checkpoint", "fingerprint", "should_stop", "progress", "observer")

every_model = pytest.mark.parametrize("kind", MODELS)


@pytest.fixture(autouse=True, scope="module")
def elsewhere(tmp_path_factory):
    """An embedding made elsewhere."""
    path = tmp_path_factory.mktemp("external") / "embedding.tsv"
    rows = np.random.default_rng(1).normal(size=(N, K))
    path.write_text(
        "\n".join(["cell\ta\tb\tc", *(f"cell{i}\t" + "\t".join(map(str, r)) for i, r in enumerate(rows))])
    )
    SMALL["external"] = {"path": str(path)}


@pytest.fixture(autouse=True)
def what_is_installed(request):
    """A model that needs a package beside the default install is fitted where that is there."""
    kind = getattr(request.node, "callspec", None) and request.node.callspec.params.get("kind")
    packages = {"harmony": "harmonypy", "nmf_harmony": "harmonypy", "scvi": "scvi", "linear_scvi": "scvi"}
    fits = {"fitted", "fit"} & {*request.fixturenames, *request.node.name.split("_")}
    if kind in packages and fits:
        pytest.importorskip(packages[kind])


def small(kind):
    assert kind in SMALL, f"tests/unit/test_models_contract.py: add a row for {kind!r} to SMALL"
    device = {"device": "cpu"} if get_card(kind).gpu else {}
    return get_model(kind)(K, **SMALL[kind], **device, random_state=0)


def data_for(card):
    """Cells x genes as the card asks for them, and what else the fit is given."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(1.0, 1.0, (N, K)) @ rng.gamma(0.5, 2.0, (K, G))).astype(np.float32)
    counts[:, 0] += 1  # no empty cell
    X = np.log1p(1e3 * counts / counts.sum(1, keepdims=True)) if card.input == "normalised" else counts
    donors, types = np.array(["a", "b", "c"])[np.arange(N) % 3], np.array(["x", "y"])[np.arange(N) % 2]
    given = {"conditions": donors if card.conditional else None, "strata": types, "progress": False}
    if "coordinates" in card.needs:
        given["coordinates"] = rng.uniform(0, 10, (N, 2))
    if "names" in card.needs:
        given |= {"cell_names": [f"cell{i}" for i in range(N)], "gene_names": [f"gene{i}" for i in range(G)]}
    return sp.csr_matrix(X), given


@pytest.fixture(scope="module")
def fitted():
    """Every model, fitted once."""
    models = {}

    def fit(kind):
        if kind not in models:
            X, given = data_for(get_card(kind))
            models[kind] = small(kind).fit(X, **given)
        return models[kind]

    return fit


# The card ----------------------------------------------------------------------------------------------


@every_model
def test_a_card_is_whole(kind, repository):
    card = get_card(kind)
    assert card.kind == kind
    assert issubclass(card.section, ModelSection)
    assert re.fullmatch(r"#[0-9A-F]{6}", card.colour)
    assert card.revision >= 1
    assert card.resources.megabytes > 0
    assert (repository / "envs" / f"{card.environment}.yaml").exists()
    assert not (card.one_condition or card.own_loadings) or card.conditional


def test_names_and_looks_are_apart():
    everything = [get_card(kind) for kind in MODELS]
    assert len({card.display_name for card in everything}) == len(everything)
    assert len({(card.colour, card.marker) for card in everything}) == len(everything)
    # what the models are measured by has a family of its own: controls are grey
    cards = [card for card in everything if card.role == "model"]
    for card in everything:
        assert card.role != "control" or len({card.colour[i : i + 2] for i in (1, 3, 5)}) == 1
    assert len({card.display_name for card in cards}) == len(cards)
    assert len({card.marker for card in cards}) == len(cards)
    colours = [card.colour for card in cards]
    as_seen = palette.oklab(palette.to_linear(palette.hex_to_rgb(colours)))
    as_a_deuteranope_sees = palette.oklab(palette.simulate_deuteranopia(palette.hex_to_rgb(colours)))
    for seen, least in ((as_seen, 12), (as_a_deuteranope_sees, 5)):
        for (i, one), (j, other) in itertools.combinations(enumerate(seen), 2):
            assert np.linalg.norm(one - other) > least, (cards[i].kind, cards[j].kind)


# The section and the constructor -----------------------------------------------------------------------


@every_model
def test_the_section_explains_every_key(kind):
    section = get_card(kind).section
    assert section.__doc__
    assert [key for key, field in section.model_fields.items() if not field.description] == ["kind"]


@every_model
def test_the_constructor_has_the_sections_defaults(kind):
    card, signature = get_card(kind), inspect.signature(get_model(kind)).parameters
    section = card.section().parameters()
    assert section == {key: signature[key].default for key in section}
    assert next(iter(signature)) == "n_components"
    assert {"random_state", "verbose"} <= set(signature)
    assert ("device" in signature) == card.gpu
    model = get_model(kind)(K, random_state=3)
    assert {"n_components": K, "random_state": 3}.items() <= clone(model).get_params().items()
    assert set(model.get_params()) == set(signature)
    with pytest.raises(TypeError, match="nonsense"):
        get_model(kind)(K, nonsense=1)


@every_model
def test_the_docstring_has_every_parameter_and_attributes_are_no_braces(kind):
    text = get_model(kind).__doc__
    assert "{parameters}" not in text
    for name in get_card(kind).section().parameters():
        assert re.search(rf"^ *{name} : .*, default=", text, re.MULTILINE), name


@every_model
def test_parameters_outside_their_bounds_are_refused_by_both(kind):
    """Whatever number the config refuses, `fit` refuses too, in the same words for the key."""
    card = get_card(kind)
    X, given = data_for(card)
    for key, value in (("n_components", -1), ("n_components", True), ("random_state", -1)):
        with pytest.raises(InputError, match=key):
            small(kind).set_params(**{key: value}).fit(X, **given)
    for key, field in card.section.model_fields.items():
        if key in small(kind).get_params() and any(
            hasattr(note, "ge") or hasattr(note, "gt") for note in field.metadata
        ):
            with pytest.raises(InputError, match=key):
                small(kind).set_params(**{key: -1e-3}).fit(X, **given)
            with pytest.raises(InputError, match=key):
                load_config({"datasets": {"d": {"simulate": {}}}, "models": {kind: {key: -1e-3}}})


# The fit -----------------------------------------------------------------------------------------------


@every_model
def test_fit_takes_what_a_job_gives(kind):
    card, accepted = get_card(kind), inspect.signature(get_model(kind).fit).parameters
    missing = {name for name in FIT_ARGUMENTS if name not in accepted}
    missing |= {"coordinates"} - set(accepted) if "coordinates" in card.needs else set()
    missing |= {"cell_names", "gene_names"} - set(accepted) if "names" in card.needs else set()
    assert not missing


@every_model
def test_a_fit_leaves_what_the_files_are_made_of(kind, fitted):
    model, card = fitted(kind), get_card(kind)
    embedding = model.embeddings()[model.embedding_key_]
    k = K if card.role == "model" else model.n_components_
    assert embedding.shape == (N, k) == model.embedding_.shape
    assert model.components_.shape == (k, G)
    loadings = model.loadings()
    assert loadings
    assert all(len(values) == G for values in loadings.values())
    assert {"model_name", "k_rank"} <= set(model.unstructured())
    for values in (embedding, *loadings.values()):
        assert np.isfinite(values).all()
        assert not card.non_negative or values.min() >= 0
    assert {"epoch", "objective", "seconds", "cells_per_s", "peak_mb"} <= set(model.history_[-1])
    assert model.n_iter_ >= 1
    assert np.isfinite([model.objective_, model.relative_error_]).all()
    assert isinstance(model.stop_reason_, str)
    assert model.converged_ in (True, False)
    assert model.uses_labels_ in (True, False)
    assert model.device_ == "cpu"


@every_model
def test_the_history_tells_how_orthogonal_the_loadings_are(kind, fitted):
    model = fitted(kind)
    told = [row.get("orthogonality", np.nan) for row in model.history_]
    if kind == "nb_hierarchical":  # its loadings are made of the residuals, when the fit is over
        assert np.isnan(told).all()
        return
    W = model.components_.astype(np.float64)
    expected = np.linalg.norm(W @ W.T - np.eye(len(W))) ** 2
    best = min(model.history_, key=lambda row: row["objective"])["orthogonality"]
    assert np.isfinite(told).all()
    assert min(abs(told[-1] - expected), abs(best - expected)) <= 1e-4 * max(expected, 1e-3)
    assert list(model.history_[-1])[-1] == "orthogonality", "what reads columns by their place goes on"


@every_model
def test_new_cells_are_embedded(kind, fitted):
    X, given = data_for(get_card(kind))
    places = {"coordinates": given["coordinates"]} if "coordinates" in given else {}
    model = fitted(kind)
    assert model.transform(X, **places).shape == (N, model.n_components_)


@every_model
def test_the_same_seed_gives_the_same_fit(kind, fitted):
    X, given = data_for(get_card(kind))
    np.testing.assert_array_equal(small(kind).fit(X, **given).components_, fitted(kind).components_)


# Texts and profiles ------------------------------------------------------------------------------------


@every_model
def test_the_docs_have_a_paragraph(kind, repository):
    text = (repository / "docs" / "models.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert any(f"`{kind}`" in row for row in rows), "docs/models.md: its table has no row of the model"
    card = get_card(kind)
    row = next(row for row in rows if f"`{kind}`" in row)
    assert card.display_name in row
    assert card.estimator in row


@every_model
def test_the_readme_of_the_config_has_every_key(kind, repository):
    text = (repository / "config" / "README.md").read_text()
    keys = set()
    for table in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        title, _, rows = table.partition("\n")
        if "models.<name>" in title or ("models." in title and re.search(rf"[.`]{kind}`", title)):
            keys |= set(re.findall(r"^\| `(\w+)` \|", rows, re.MULTILINE))
    assert keys == set(get_card(kind).section.model_fields) - {"kind"}


@every_model
def test_the_profile_of_a_cluster_can_give_it_cores(kind, repository):
    profile = yaml.safe_load((repository / "profiles" / "slurm" / "profile.yaml").read_text())
    cores = profile["set-threads"][f"train_{kind}"]
    assert (cores > 1) == (get_card(kind).resources.threads > 1), "none is held that nothing would use"
