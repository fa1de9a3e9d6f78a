"""Screens, splits, sums and vectors: what is read, what is shared out, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from nmfbench.config import load_config
from nmfbench.config.perturbation import Embedding as Section
from nmfbench.config.perturbation import Screen as Settings
from nmfbench.config.perturbation import SimulatedScreen
from nmfbench.data import filter_donors
from nmfbench.errors import InputError
from nmfbench.perturbation import cell_cycle
from nmfbench.perturbation.devices import device_of_its_own, names_of
from nmfbench.perturbation.embeddings import embed, prepare, read_embedding, read_vectors
from nmfbench.perturbation.join import join_pair
from nmfbench.perturbation.predicted import read_predictions
from nmfbench.perturbation.sampling import read_sampling_list
from nmfbench.perturbation.screen import read_screen
from nmfbench.perturbation.simulate import simulate
from nmfbench.perturbation.splits import (
    SCORED_CONTROL,
    TRAIN_CONTROL,
    TRAINED,
    sampling_list,
    split_screen,
    split_table,
)
from nmfbench.perturbation.sums import gather_sums, read_sums

DESIGN = SimulatedScreen(
    n_genes=40, n_targets=6, n_cells=400, width=3, n_batches=2, doubles=2, seed=2
).model_dump()
SETTINGS = Settings(batch_column="batch", guide_column="guide_id").model_dump()


def source(folder, **changes):
    """An .h5ad of the simulated screen; `changes` are columns of obs."""
    made = simulate(DESIGN)
    rng = np.random.default_rng(0)
    columns = {"target_gene": made.target, "batch": made.batch, "phase": made.phase}
    columns["guide_id"] = [f"{name}_{rng.integers(2)}" for name in made.target]
    obs = pd.DataFrame({**columns, **changes}, index=[f"c{row}" for row in range(len(made.target))])
    path = folder / "source.h5ad"
    anndata.AnnData(made.counts, obs=obs.astype("category"), var=pd.DataFrame(index=made.genes)).write_h5ad(
        path
    )
    return path


def filtered(folder, **changes):
    keep = ["target_gene", "batch", "guide_id", "phase"]
    options = {"cell_type_column": "target_gene", "donor_column": "batch", "min_cells_per_donor": 1}
    filter_donors(
        source(folder, **changes), folder / "filtered.h5ad", folder / "donors.tsv", keep_obs=keep, **options
    )
    return folder / "filtered.h5ad"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return filtered(tmp_path_factory.mktemp("screen"))


@pytest.fixture(scope="module")
def screen(path):
    return read_screen(path, SETTINGS)


def refusal(function, *arguments, **keys) -> str:
    with pytest.raises(InputError) as caught:
        function(*arguments, **keys)
    return str(caught.value)


# ---- screens


def test_a_screen_has_its_targets_genes_and_labels(screen):
    assert len(screen.targets) == 8
    assert sum("+" in target for target in screen.targets) == 2
    assert (screen.gene_of[["+" not in target for target in screen.targets]] >= 0).all()
    assert screen.labels["kept"].all()
    assert (screen.codes == -1).sum() == 80


def test_small_targets_are_left_out_with_their_reason(tmp_path):
    target = simulate(DESIGN).target.copy()
    small = target[-1]
    target[np.flatnonzero(target == small)[:25]] = "non-targeting"
    found = read_screen(filtered(tmp_path, target_gene=target), SETTINGS)
    assert small not in found.targets
    assert len(found.targets) == 7
    row = found.labels.set_index("label").loc[small]
    assert (row["cells"], row["kept"], row["reason"]) == (15, False, "fewer than 20 cells")
    none = refusal(read_screen, tmp_path / "filtered.h5ad", {**SETTINGS, "min_cells": 1000})
    assert "targets with at least 1000 cells" in none


def test_no_control_is_one_message_that_names_likely_ones(path):
    text = refusal(read_screen, path, {**SETTINGS, "control": "ctrl"})
    assert "control cells, labelled 'ctrl'" in text
    assert "'non-targeting'" in text


def test_guides_for_labels_are_refused(tmp_path):
    made = simulate(DESIGN)
    guides = np.where(
        made.target == "non-targeting", made.target, np.char.add(made.target.astype(str), "_sg2")
    )
    path = filtered(tmp_path, target_gene=guides)
    text = refusal(read_screen, path, SETTINGS)
    assert "labels of guides" in text
    assert "target_map" in text
    table = pd.DataFrame({"label": sorted(set(guides))})
    table["target"] = table["label"].str.replace("_sg2", "")
    table.to_csv(tmp_path / "map.csv", index=False)
    assert len(read_screen(path, {**SETTINGS, "target_map": str(tmp_path / "map.csv")}).targets) == 8
    assert len(read_screen(path, {**SETTINGS, "labels_are_targets": True}).targets) == 8


def test_real_symbols_are_no_guides():
    from nmfbench.perturbation.screen import _refuse_guides

    _refuse_guides(["STAT1", "STAT2", "IRF1", "IRF7", "CD86", "HLA-A", "SMAD4"], "x", SETTINGS)


def test_unknown_phases_are_refused(tmp_path):
    made = simulate(DESIGN)
    path = filtered(tmp_path, phase=np.where(made.phase == "S", "S/G2", made.phase))
    assert "'S/G2'" in refusal(read_screen, path, {**SETTINGS, "phase_column": "phase"})


def test_phases_are_scored_from_marker_genes(screen, monkeypatch):
    assert "marker genes" in refusal(cell_cycle.score_phases, screen.counts.path, screen.genes)
    monkeypatch.setattr(cell_cycle, "S_GENES", list(screen.genes[:8]))
    monkeypatch.setattr(cell_cycle, "G2M_GENES", list(screen.genes[8:16]))
    phases = replace(screen, score_phases=True).phases()
    assert set(phases) == {0, 1, 2}


# ---- splits


def split(screen, kind, **keys):
    return split_screen(screen, {"kind": kind, "seed": 0, **keys})


def test_each_target_is_held_out_once(screen):
    found = split(screen, "leave_target_out", n_folds="auto")
    assert found.n_folds == 8
    table = split_table(screen, found)
    assert (table[table["set"] == "test"].groupby("target").size() == 1).all()
    assert split(screen, "leave_target_out", n_folds=3).n_folds == 3


def test_control_cells_are_halved_in_each_batch(screen):
    found = split(screen, "held_out_targets", fraction=0.25)
    for batch in screen.batch.categories:
        mine = found.fold[np.asarray(screen.batch == batch) & (screen.codes == -1)]
        assert abs((mine == TRAIN_CONTROL).sum() - (mine == SCORED_CONTROL).sum()) <= 1
    assert (found.fold == 0).sum() == sum(
        (screen.codes == t).sum() for t in range(8) if (found.fold[screen.codes == t] == 0).all()
    )


def test_a_held_out_batch_has_its_own_control(screen):
    found = split(screen, "held_out_batch", batch="batch_1")
    inside = np.asarray(screen.batch == "batch_1")
    assert (found.fold[screen.codes >= 0] == np.where(inside, 0, TRAINED)[screen.codes >= 0]).all()
    assert inside[found.fold == SCORED_CONTROL].all()
    assert "'batch_9'" in refusal(split, screen, "held_out_batch", batch="batch_9")


def test_one_guide_of_each_target_is_held_out(screen):
    found = split(screen, "held_out_guide")
    for target in range(8):
        mine = screen.codes == target
        guides = pd.Series(found.fold[mine]).groupby(np.asarray(screen.guide[mine])).nunique()
        assert (guides == 1).all()
        assert set(found.fold[mine]) == {0, TRAINED}


def test_a_split_file_is_followed_and_checked(screen, tmp_path):
    place = tmp_path / "split.csv"
    table = pd.DataFrame({"target": screen.targets, "set": ["train"] * 6 + ["test"] * 2})
    table.to_csv(place, index=False)
    found = split(screen, "file", path=str(place))
    assert [set(found.fold[screen.codes == t]) for t in range(8)] == [{TRAINED}] * 6 + [{0}] * 2
    pd.concat([table, table.iloc[:1].assign(set="test")]).to_csv(place, index=False)
    assert f"{screen.targets[0]} in train and in test" in refusal(split, screen, "file", path=str(place))
    table.assign(target="elsewhere").to_csv(place, index=False)
    assert "elsewhere" in refusal(split, screen, "file", path=str(place))
    assert "no such file" in refusal(split, screen, "file", path=str(tmp_path / "none.csv"))


def test_the_sampling_list_is_the_published_one(screen):
    found = split(screen, "leave_target_out", n_folds=4)
    table = sampling_list(screen, found)
    assert table.columns.tolist() == ["target_gene", "n_cells", "median_umi_per_cell"]
    assert table["n_cells"].tolist() == [(screen.codes == target).sum() for target in range(8)]


def test_sums_are_those_of_the_dense_matrix(screen, tmp_path):
    found = split(screen, "leave_target_out", n_folds=4)
    sums = gather_sums(screen, found)
    sums.save(tmp_path / "sums.npz")
    sums = read_sums(tmp_path / "sums.npz")
    counts = sparse.vstack([block for _, block in screen.counts.blocks()]).toarray().astype(float)
    totals = counts.sum(axis=1)
    assert sums.target_sum == np.median(totals[screen.codes == -1])
    assert sums.ref_depth == np.median(totals[found.fold == TRAIN_CONTROL])
    by_target = sums.by_target(sums.training(0))
    for row, target in enumerate(by_target.target):
        mine = screen.codes == target
        assert not (found.fold[mine] == 0).any()
        np.testing.assert_allclose(by_target.counts[row], counts[mine].sum(axis=0))
        logs = np.log1p(counts[mine] / totals[mine, None] * sums.target_sum)
        np.testing.assert_allclose(by_target.profiles[row], logs.mean(axis=0))
        np.testing.assert_allclose(
            by_target.profile_variances[row], logs.var(axis=0, ddof=1) / mine.sum(), atol=1e-12
        )
        s = totals[mine] / sums.ref_depth
        assert by_target.size_squared[row] == pytest.approx((s**2).sum())


# ---- vectors


def test_components_of_the_control_are_those_of_the_dense_matrix(screen):
    found = split(screen, "leave_target_out", n_folds=4)
    made = embed(
        screen,
        found,
        Section(**{"from": "control"}, components=3, standardise=False, normalise=False).model_dump(),
    )
    counts = sparse.vstack([block for _, block in screen.counts.blocks()]).toarray()[
        found.fold == TRAIN_CONTROL
    ]
    logs = np.log1p(counts / counts.sum(axis=1, keepdims=True) * np.median(counts.sum(axis=1)))
    _, values, loadings = np.linalg.svd(logs - logs.mean(axis=0), full_matrices=False)
    expected = loadings[:3].T * values[:3] / np.sqrt(len(logs))
    np.testing.assert_allclose(np.abs(made.genes), np.abs(expected), rtol=1e-3, atol=1e-4)
    pair = next(target for target in screen.targets if "+" in target)
    vectors, missing = made.of([pair, *pair.split("+"), "elsewhere"])
    np.testing.assert_allclose(vectors[0], vectors[1] + vectors[2])
    assert missing.tolist() == [False, False, False, True]


def test_tables_of_vectors_are_aligned_and_what_lacks_is_named(screen, tmp_path, caplog):
    rng = np.random.default_rng(0)
    genes = [gene for gene in screen.genes if gene != screen.targets[0]][::-1]
    table = pd.DataFrame(rng.normal(size=(len(genes), 4)), index=genes)
    table.to_csv(tmp_path / "G.tsv", sep="\t")
    section = Section(**{"from": "csv"}, genes=str(tmp_path / "G.tsv"), standardise=False).model_dump()
    made = embed(screen, split(screen, "leave_target_out", n_folds=4), section)
    assert made.missing_genes == [screen.targets[0]]
    assert screen.targets[0] in caplog.text
    assert made.of([screen.targets[0]])[1][0]
    row = table.loc[screen.genes[7]] / np.linalg.norm(table.loc[screen.genes[7]])
    np.testing.assert_allclose(made.genes[7], row)
    made.save(tmp_path / "e.npz")
    again = read_embedding(tmp_path / "e.npz")
    assert np.array_equal(again.genes, made.genes)
    assert again.missing_genes == made.missing_genes


def test_vectors_that_are_made_in_each_fold_survive_their_file_before_they_are_there(screen, tmp_path):
    section = Section(**{"from": "responses"}, components=3).model_dump()
    made = embed(screen, split(screen, "held_out_batch", batch="batch_1"), section)
    made.save(tmp_path / "e.npz")
    again = read_embedding(tmp_path / "e.npz")
    assert (again.components, again.vectors, again.genes.shape) == (3, {}, (len(screen.genes), 3))


@pytest.mark.parametrize(
    ("rows", "words"),
    [("a,1,2\na,3,4\n", "a twice"), ("a,1,x\n", "numbers in every column"), ("a,1,inf\n", "not finite")],
)
def test_bad_tables_of_vectors_are_refused(tmp_path, rows, words):
    (tmp_path / "v.csv").write_text("gene,v0,v1\n" + rows)
    assert words in refusal(read_vectors, tmp_path / "v.csv")


def test_standardising_comes_before_the_length():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(200, 3)) * [1, 2, 3] + [50, 0, 0]
    plain, centred = prepare(table, False, True), prepare(table, True, True)
    assert np.abs(plain[:, 0]).min() > 0.98  # nearly one direction
    assert np.abs(centred.mean(axis=0)).max() < 0.1
    np.testing.assert_allclose(np.linalg.norm(centred, axis=1), 1)


# ---- files that people bring


def test_a_pair_of_files_becomes_one_screen_without_double_cells(tmp_path):
    made = anndata.read_h5ad(source(tmp_path))
    label = made.obs["target_gene"].astype(str).to_numpy()
    held_out = sorted(set(label) - {"non-targeting"})[:2]
    control = label == "non-targeting"
    for name, mask in (("train", ~np.isin(label, held_out)), ("test", np.isin(label, held_out) | control)):
        made[mask].copy().write_h5ad(tmp_path / f"{name}.h5ad")
    one, two, out = (str(tmp_path / f"{name}.h5ad") for name in ("train", "test", "joined"))
    join_pair(one, two, out, column="target_gene", control="non-targeting")
    joined = anndata.read_h5ad(out)
    assert joined.shape[0] == made.shape[0] + control.sum()
    assert (joined.obs["duplicate_of_train"] == "yes").sum() == control.sum()
    options = {"cell_type_column": "target_gene", "donor_column": "batch", "min_cells_per_donor": 1}
    keep = ["target_gene", "batch", "set", "duplicate_of_train"]
    filter_donors(out, tmp_path / "f.h5ad", tmp_path / "d.tsv", keep_obs=keep, **options)
    screen = read_screen(tmp_path / "f.h5ad", {**SETTINGS, "guide_column": None, "test_path": two})
    assert (screen.codes == -1).sum() == control.sum()
    found = split(screen, "column", column="set", targets_seen=False)
    assert [screen.targets[t] for t in range(8) if (found.fold[screen.codes == t] == 0).all()] == held_out
    assert "other than" not in refusal(
        join_pair, one, one, out, column="target_gene", control="non-targeting"
    )


def predictions(tmp_path, counts):
    obs = pd.DataFrame({"target_gene": ["A", "A", "B", "C", "non-targeting"]}, index=list("abcde"))
    var = pd.DataFrame(index=["g3", "g1", "g2"])
    data = anndata.AnnData(sparse.csr_matrix(np.asarray(counts, dtype=np.float32)), obs=obs, var=var)
    data.write_h5ad(tmp_path / "p.h5ad")
    return tmp_path / "p.h5ad"


def test_predictions_of_others_are_aligned_or_refused(tmp_path):
    options = {"genes": ["g1", "g2", "g3"], "column": "target_gene", "control_label": "non-targeting"}
    counts = np.arange(15).reshape(5, 3)
    path = predictions(tmp_path, counts)
    cells = read_predictions(path, targets=["B", "A"], **options)
    assert cells.group.tolist() == [1, 1, 0, -1]
    assert cells.counts.toarray()[0].tolist() == [1, 2, 0]
    assert "none of D" in refusal(read_predictions, path, targets=["A", "D"], **options)
    missing = {**options, "genes": ["g1", "g9"]}
    assert "'g9'" in refusal(read_predictions, path, targets=["A"], **missing)
    path = predictions(tmp_path, np.log1p(counts))
    assert "they look normalised" in refusal(read_predictions, path, targets=["A"], **options)
    assert "no such file" in refusal(read_predictions, tmp_path / "none.h5ad", targets=["A"], **options)
    assert "rename" in refusal(read_predictions, path, targets=["A"], **{**options, "column": "gene"})


def test_bad_sampling_lists_are_refused(tmp_path):
    place = tmp_path / "list.csv"
    place.write_text("target_gene,n_cells,median_umi_per_cell\nA,5,100\nnon-targeting,3,50\n")
    assert read_sampling_list(str(place), "non-targeting")["target_gene"].tolist() == ["A"]
    place.write_text("target_gene,n_cells\nA,5\n")
    assert "no column median_umi_per_cell" in refusal(read_sampling_list, str(place), "c")
    place.write_text("target_gene,n_cells,median_umi_per_cell\nA,5,1\nA,6,1\n")
    assert "A twice" in refusal(read_sampling_list, str(place), "c")


# ---- config


def config(**predictors):
    dataset = {
        "path": "x.h5ad",
        "tasks": ["perturbation"],
        "screen": {"column": "gene", "batch_column": "batch"},
    }
    return load_config({"datasets": {"screen": dataset}, "predictors": predictors or {"nb_glm": {}}})


def test_a_screen_gives_the_filter_what_it_needs():
    section = config().datasets["screen"]
    assert (section.cell_type_column, section.donor_column, section.min_cells_per_donor) == (
        "gene",
        "batch",
        1,
    )
    assert section.keep_obs == ["gene", "batch"]


def test_numbers_without_a_dot_are_numbers():
    import yaml

    keys = yaml.safe_load(
        "{learning_rate: 5e-4, min_learning_rate: 1e-5, g_mlp_hidden: '64, 32', g_out_dim: none, "
        "loss: NB_DEV}"
    )
    assert isinstance(keys["learning_rate"], str)
    section = config(nb_glm=keys).predictors["nb_glm"]
    assert (section.learning_rate, section.g_mlp_hidden, section.g_out_dim, section.loss) == (
        5e-4,
        [64, 32],
        None,
        "nb_dev",
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"predictors": {"nb_glm": {"learning_rat": 1}}}, "did you mean 'learning_rate'"),
        ({"predictors": {"nbglm": {}}}, "did you mean 'nb_glm'"),
        ({"perturbation": {"splits": {"a": {"kind": "held_out_batch", "batc": 1}}}}, "did you mean 'batch'"),
        (
            {"perturbation": {"splits": {"a": {"kind": "leave_targets_out"}}}},
            "did you mean 'leave_target_out'",
        ),
        ({"perturbation": {"embeddings": {"a": {"from": "csv"}}}}, "from: csv needs genes"),
        ({"perturbation": {"scorer": {"backend": "cell_eval"}}}, "perturbation.scorer.backend"),
    ],
)
def test_mistakes_are_named_with_their_path(change, words):
    dataset = {"simulate_screen": {}, "tasks": ["perturbation"], "screen": {}}
    assert words in refusal(load_config, {"datasets": {"a": dataset}, **change})


def test_a_screen_needs_its_task_and_the_task_its_screen():
    assert "belong together" in refusal(load_config, {"datasets": {"a": {"path": "x", "screen": {}}}})
    assert "belong together" in refusal(
        load_config, {"datasets": {"a": {"path": "x", "tasks": ["perturbation"]}}}
    )


# ---- devices


def test_a_job_takes_the_first_device_that_is_free(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert names_of(["cuda:2", 0, "cpu", -1]) == ["2", "0", "cpu", "cpu"]
    import os

    with device_of_its_own([3, "cuda:1"], tmp_path) as one:
        assert (one, os.environ["CUDA_VISIBLE_DEVICES"]) == ("cuda", "3")
        with device_of_its_own([3, "cuda:1", "cpu"], tmp_path) as other:
            assert (other, os.environ["CUDA_VISIBLE_DEVICES"]) == ("cuda", "1")
            with device_of_its_own([3, 1, "cpu"], tmp_path) as none:
                assert (none, os.environ["CUDA_VISIBLE_DEVICES"]) == ("cpu", "")
    with device_of_its_own(None, tmp_path) as nothing:
        assert nothing is None
