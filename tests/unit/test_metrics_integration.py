"""Integration scores against plain twins, against scib-metrics, and on embeddings whose scores are known."""

from __future__ import annotations

import numpy as np
import pytest

from nmfbench.components import principal_components
from nmfbench.errors import InputError
from nmfbench.metrics import INTEGRATION_METRICS, METRICS
from nmfbench.metrics import mixing as near
from nmfbench.metrics import separation as far
from nmfbench.metrics.integration import integration_scores
from nmfbench.metrics.neighbours import find_neighbours
from nmfbench.metrics.reference import (
    Reference,
    load_reference,
    make_reference,
    save_reference,
)

pytestmark = pytest.mark.filterwarnings("ignore::numba.core.errors.NumbaWarning")

#: scib-metrics 0.5.10 on :func:`cells`; a test extra makes them anew (`test_live`).
SCIB = {
    "iLISI": 0.49982255697250366,
    "cLISI": 0.96538907289505,
    "BRAS": 0.7290945649147034,
    "PCR": 0.5054989990998512,
    "ASW_label": 0.6225588321685791,
    "isolated_labels": 0.643751323223114,
    "graph_connectivity": 0.9815326110344896,
}
SCIB_LISI = [2.4577243, 1.7066361, 2.7159846, 2.6570191, 1.3275138]


def cells(n=600):
    """Five types, one of them in two of three donors, a donor effect; and what was before integration."""
    rng = np.random.default_rng(11)
    types = rng.integers(0, 5, n)
    donors = np.where(types == 4, rng.integers(0, 2, n), rng.integers(0, 3, n))
    H = rng.normal(size=(5, 8))[types] * 1.2 + rng.normal(size=(3, 8))[donors] * 0.6
    H = (H + rng.normal(size=(n, 8))).astype("f4")
    before = (H + rng.normal(size=(3, 8))[donors]).astype("f4")
    return H, np.array([f"t{i}" for i in types]), np.array([f"b{i}" for i in donors]), before


def reference(before, types):
    names = np.unique(types[types != np.array(None)].astype(str))
    return Reference(before, np.full((names.size,) * 2, np.nan), names, 0)


def scores(H, types, donors, before=None, **given):
    before = None if before is None else reference(before, types)
    table = integration_scores(H, types, donors, find_neighbours(H, min(90, len(H) - 1)), before, **given)
    return table.set_index("metric")


def test_values_are_those_of_scib_metrics():
    H, types, donors, before = cells()
    table = scores(H, types, donors, before)
    for metric, value in SCIB.items():
        assert table.loc[metric, "value"] == pytest.approx(value, abs=1e-6), metric
    assert table.loc["PCR", "unscaled"] == pytest.approx(-0.09681874513626099, abs=1e-6)
    codes = np.unique(donors, return_inverse=True)[1]
    found = near.lisi(find_neighbours(H, 90), codes)
    np.testing.assert_allclose(found[:5], SCIB_LISI, atol=2e-4)


def test_live():
    scib = pytest.importorskip("scib_metrics")
    from scib_metrics.nearest_neighbors import NeighborsResults

    H, types, donors, before = cells()
    table = find_neighbours(H, 90)
    graph = NeighborsResults(indices=table.indices, distances=table.distances)
    live = {
        "iLISI": scib.ilisi_knn(graph, donors),
        "cLISI": scib.clisi_knn(graph, types),
        "BRAS": scib.bras(H, types, donors),
        "PCR": scib.pcr_comparison(before, H, donors, categorical=True),
        "ASW_label": scib.silhouette_label(H, types),
        "isolated_labels": scib.isolated_labels(H, types, donors),
        "graph_connectivity": scib.graph_connectivity(graph.subset_neighbors(15), types),
    }
    for metric, value in live.items():
        assert SCIB[metric] == pytest.approx(value, abs=1e-5), metric


def test_silhouettes_are_scikit_learns():
    from sklearn.metrics import silhouette_samples

    H, types, _, _ = cells(300)
    codes = np.unique(types, return_inverse=True)[1]
    codes[0] = 5  # alone
    expected = silhouette_samples(H.astype(np.float64), codes)
    np.testing.assert_allclose(far.silhouettes(H + 50.0, codes), expected, atol=1e-4)
    assert far.silhouettes(H, codes)[0] == 0


def test_the_closed_form_of_the_batch_silhouette_is_the_sum_over_pairs():
    H, types, donors, _ = cells(150)
    types, donors = (np.unique(x, return_inverse=True)[1] for x in (types, donors))
    units = H / np.linalg.norm(H, axis=1, keepdims=True)
    apart = 1.0 - units.astype(np.float64) @ units.T
    means = []
    for label in range(5):
        mine = np.flatnonzero(types == label)
        one = []
        for i in mine:
            same = mine[(donors[mine] == donors[i]) & (mine != i)]
            other = mine[donors[mine] != donors[i]]
            a, b = apart[i, same].mean() if same.size else 0.0, apart[i, other].mean()
            one.append(1.0 - (abs(b - a) / max(a, b) if same.size else 0.0))
        means.append(np.mean(one))
    assert far.batch_silhouette(H, types, donors) == pytest.approx(np.mean(means), abs=1e-6)


def test_variance_between_donors_is_the_regression_on_all_components():
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LinearRegression

    H, _, donors, _ = cells()
    pca = PCA().fit(H)
    components, one_hot = pca.transform(H), np.eye(3)[np.unique(donors, return_inverse=True)[1]]
    r2 = [LinearRegression().fit(one_hot, c).score(one_hot, c) for c in components.T]
    expected = np.dot(r2, pca.explained_variance_) / pca.explained_variance_.sum()
    codes = np.unique(donors, return_inverse=True)[1]
    assert far.donor_variance(H, codes) == pytest.approx(expected, abs=1e-6)


def test_mixing_is_found_inside_types_that_share_no_donor_balance():
    rng = np.random.default_rng(0)
    types = np.repeat([0, 1], 200)
    donors = np.where(types == 0, rng.integers(0, 2, 400), 2 + rng.integers(0, 2, 400))
    H = rng.normal(size=(400, 5)) + 10.0 * types[:, None]
    inside = near.conditional_lisi(H, types, donors)
    assert [group.size for group in inside] == [200, 200]
    assert min(group.mean() for group in inside) > 0.8
    apart = near.conditional_lisi(H + 100.0 * donors[:, None], types, donors)
    assert max(group.mean() for group in apart) < 1e-6


def test_shares_and_entropies_count_neighbours():
    H, types, donors, _ = cells()
    types, donors = (np.unique(x, return_inverse=True)[1] for x in (types, donors))
    donors[::10] = -1
    table = find_neighbours(H, 90)
    entropy = near.neighbour_entropy(table, donors, 90)
    assert np.isnan(entropy[::10]).all()
    for i in (1, 77):
        near_i = table.indices[i]
        assert near.neighbour_shares(table, types)[i] == np.mean(types[near_i[:25]] == types[i])
        counts = np.bincount(donors[near_i][donors[near_i] >= 0])
        p = counts[counts > 0] / counts.sum()
        assert entropy[i] == pytest.approx(-(p * np.log(p)).sum() / np.log(3))


def test_embeddings_of_one_label_alone_have_the_scores_they_must_have():
    _, types, donors, before = cells()
    rng = np.random.default_rng(0)
    jitter = rng.uniform(-0.01, 0.01, size=(len(types), 5))
    by_type = np.eye(5)[np.unique(types, return_inverse=True)[1]] + jitter
    by_donor = np.eye(3)[np.unique(donors, return_inverse=True)[1]] + jitter[:, :3]
    kept, hidden = scores(by_type, types, donors, before), scores(by_donor, types, donors, before)
    for metric in ("cLISI", "ASW_label", "isolated_labels", "kSIM", "graph_connectivity"):
        assert kept.loc[metric, "value"] > 0.97, metric
    for metric in ("cLISI", "kSIM"):
        assert hidden.loc[metric, "value"] < 0.5, metric
    for metric in ("iLISI", "CiLISI", "PCR", "batch_entropy"):
        assert hidden.loc[metric, "value"] < 0.01, metric
        assert kept.loc[metric, "value"] > 0.5, metric
    assert hidden.loc["BRAS", "value"] < 0.05 < 0.9 < kept.loc["BRAS", "value"]


def test_what_has_no_meaning_says_so_and_the_rest_goes_on():
    H, types, donors, _ = cells(120)
    alone = scores(H, types, np.full(120, "a"))
    for metric in ("iLISI", "CiLISI", "BRAS", "batch_entropy", "isolated_labels"):
        assert alone.loc[metric, ["status", "message"]].tolist() == [
            "not applicable",
            "one donor: there is nothing to mix",
        ]
    assert alone.loc["cLISI", "status"] == "ok"
    assert scores(H, np.full(120, "T"), donors).loc["ASW_label", "status"] == "not applicable"
    assert scores(H, types, donors).loc["scGraph", "message"] == "no reference of the unintegrated cells"
    assert set(scores(np.ones((120, 3)), types, donors)["status"]) == {"not applicable"}
    with pytest.raises(InputError, match="finite"):
        integration_scores(np.full((120, 2), np.nan), types, donors, find_neighbours(H, 90))


def test_a_metric_that_fails_costs_its_row_alone(monkeypatch, caplog):
    H, types, donors, before = cells(120)

    def fails(*given):
        raise MemoryError("no room")

    monkeypatch.setattr(far, "silhouettes", fails)
    table = scores(H, types, donors, before)
    assert table.loc["ASW_label", ["status", "message"]].tolist() == ["failed", "MemoryError: no room"]
    assert np.isnan(table.loc["ASW_label", "value"])
    assert table.loc["cLISI", "status"] == "ok"


def test_cells_without_a_label_are_left_out():
    H, types, donors, before = cells()
    types, donors = types.astype(object), donors.astype(object)
    types[:50] = None
    table = scores(H, types, donors, before)
    assert table.loc["ASW_label", "n_cells"] == table.loc["BRAS", "n_cells"] == 550
    assert table.loc["iLISI", "n_cells"] == 600
    sampled = scores(H, types, donors, before, silhouette_cells=100)
    assert sampled.loc["ASW_label", "n_cells"] == 100
    assert sampled.loc["ASW_label", "value"] == pytest.approx(table.loc["ASW_label", "value"], abs=0.05)


def test_distances_between_types_agree_with_themselves():
    H, types, _, _ = cells()
    codes = np.unique(types, return_inverse=True)[1]
    apart = far.type_distances(H, codes, 6)
    assert np.isnan(apart[5]).all()
    assert np.nanmax(apart) == 1.0
    value, n_types = far.graph_of_types(apart, apart)
    assert (value, n_types) == (pytest.approx(1.0), 5)
    other = far.type_distances(np.random.default_rng(0).normal(size=H.shape), codes, 6)
    assert far.graph_of_types(other, apart)[0] < 0.9


def test_the_reference_is_made_of_the_filtered_counts(tmp_path):
    from sklearn.decomposition import PCA

    from nmfbench.data import filter_donors, load_normalised, simulate_atlas

    simulate_atlas(tmp_path / "a.h5ad", n_cells=400, n_genes=150, n_cell_types=4, n_donors=2, min_cells=100)
    filter_donors(tmp_path / "a.h5ad", tmp_path / "f.h5ad", tmp_path / "d.tsv", min_cells_per_donor=100)
    found = make_reference(tmp_path / "f.h5ad")
    X = load_normalised(tmp_path / "f.h5ad").toarray().astype(np.float64)
    expected = PCA(50, svd_solver="full").fit_transform(X)
    np.testing.assert_allclose(np.abs(found.components[:, :5]), np.abs(expected[:, :5]), atol=1e-3)
    assert found.n_donors == 2
    assert np.isfinite(found.consensus).any()
    save_reference(tmp_path / "r.npz", found)
    again = load_reference(tmp_path / "r.npz", len(X))
    np.testing.assert_array_equal(again.components, found.components)
    assert again.types.tolist() == found.types.tolist()
    with pytest.raises(InputError, match="cells"):
        load_reference(tmp_path / "r.npz", 7)
    assert principal_components(load_normalised(tmp_path / "f.h5ad")[:20], 50).shape == (20, 19)


def test_the_registry_names_every_score():
    assert len(INTEGRATION_METRICS) == 12
    for name in INTEGRATION_METRICS:
        assert METRICS[name].label in ("cell_type", "donor_id")
        assert METRICS[name].family == "integration"
