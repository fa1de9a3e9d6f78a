"""The results-only .h5ad: round trip, schema, and reading as the published scripts do."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest

from nmfbench.errors import InputError
from nmfbench.results import SCHEMA, read_embedding, read_result, write_result, write_result_blocks

N, P, K = 7, 5, 2
RECORD = {
    "model": "ae_nmf",
    "display_name": "AE_NMF",
    "rank": K,
    "seed": 42,
    "embedding": f"H_shared_k{K}",
    "uses_labels": True,
}


def content(**changes):
    rng = np.random.default_rng(0)
    cells = pd.Index([f"cell{i}" for i in range(N)])
    return {
        "obs": pd.DataFrame({"cell_type": list("aabbccc"), "donor_id": list("xyxyxyx")}, index=cells),
        "var": pd.DataFrame(index=[f"gene{j}" for j in range(P)]),
        "obsm": {f"H_shared_k{K}": rng.random((N, K), dtype=np.float32)},
        "varm": {f"W_tied_k{K}": rng.random((P, K), dtype=np.float32)},
        "uns": {
            "model_name": "AE_NMF_no_cond_tied",
            "k_rank": K,
            "none": None,
            "meta": {"cols": ["donor_id"]},
        },
        "record": RECORD,
        **changes,
    }


def test_round_trip(tmp_path):
    path = tmp_path / "result.h5ad"
    given = content()
    write_result(path, **given)
    back = read_result(path)
    assert back.X is None
    assert back.shape == (N, P)
    assert back.uns["nmfbench"]["schema"] == SCHEMA
    np.testing.assert_array_equal(back.obsm[f"H_shared_k{K}"], given["obsm"][f"H_shared_k{K}"])
    H, obs = read_embedding(path)
    assert H.dtype == np.float32
    assert list(obs["cell_type"]) == list("aabbccc")
    assert [file.name for file in tmp_path.iterdir()] == ["result.h5ad"]


def test_plain_anndata_reads_it_as_the_published_scripts_do(tmp_path):
    write_result(tmp_path / "r.h5ad", **content())
    adata = anndata.read_h5ad(tmp_path / "r.h5ad")
    assert adata.obsm[f"H_shared_k{K}"].shape == (N, K)
    assert adata.varm[f"W_tied_k{K}"].shape == (P, K)
    assert adata.uns["model_name"] == "AE_NMF_no_cond_tied"
    assert adata.uns["k_rank"] == K
    assert {"cell_type", "donor_id"} <= set(adata.obs)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"obs": pd.DataFrame({"cell_type": list("aabbccc")}, index=list("tuvwxyz"))}, "lacks 'donor_id'"),
        ({"obsm": {f"H_shared_k{K}": np.full((N, K), np.nan)}}, "not finite"),
        ({"obsm": {f"H_shared_k{K}": np.full((N, K), -1.0)}}, "negative values"),
        ({"obsm": {"H_other": np.ones((N, K))}}, "lacks the scored embedding"),
        ({"varm": {}}, "no loadings"),
        ({"uns": {}}, "lacks 'model_name'"),
        ({"record": {key: value for key, value in RECORD.items() if key != "rank"}}, "lacks 'rank'"),
    ],
)
def test_what_breaks_the_schema_is_not_written(tmp_path, change, expected):
    with pytest.raises(InputError, match=expected):
        write_result(tmp_path / "result.h5ad", **content(**change))
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_nothing_and_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "result.h5ad"
    write_result(path, **content())
    before = path.read_bytes()

    def full_disk(file, sections):
        file.create_dataset("half", data=np.ones(1000))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nmfbench.data.writer.write_sections", full_disk)
    with pytest.raises(InputError, match="no space left"):
        write_result(path, **content())
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["result.h5ad"]


def test_damaged_missing_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "result.h5ad"
    with pytest.raises(InputError, match="no such file"):
        read_result(path)
    write_result(path, **content())
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match="cannot be read"):
        read_result(path)
    anndata.AnnData(np.ones((2, 2), dtype=np.float32)).write_h5ad(path)
    with pytest.raises(InputError, match="not a valid result"):
        read_result(path)


def blocks_of(obsm, size=3):
    n = len(next(iter(obsm.values())))
    for start in range(0, n, size):
        yield start, {key: values[start : start + size] for key, values in obsm.items()}


def filtered_file(path, obs, var):
    anndata.AnnData(obs=obs, var=var).write_h5ad(path)
    return path


def test_a_result_written_in_blocks_is_the_one_written_at_once(tmp_path):
    given = content()
    write_result(tmp_path / "whole.h5ad", **given)
    filtered = filtered_file(tmp_path / "filtered.h5ad", given.pop("obs"), given.pop("var"))
    blocks = blocks_of(given.pop("obsm"))
    write_result_blocks(tmp_path / "blocks.h5ad", filtered=filtered, blocks=blocks, **given)
    whole, back = (read_result(tmp_path / f"{name}.h5ad") for name in ("whole", "blocks"))
    assert back.X is None
    pd.testing.assert_frame_equal(back.obs.astype(object), whole.obs.astype(object))
    pd.testing.assert_frame_equal(back.var, whole.var)
    for kind in ("obsm", "varm"):
        ours, theirs = getattr(back, kind), getattr(whole, kind)
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[key], theirs[key]) for key in ours)
    # the one had its labels as text, the other as categories
    records = [{**file.uns["nmfbench"], "checksums": None} for file in (back, whole)]
    assert records[0] == records[1]
    assert back.uns["k_rank"] == K


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"obsm": {f"H_shared_k{K}": np.where(np.arange(N)[:, None] == 5, np.nan, 1.0)}}, "cells from 3"),
        ({"obsm": {f"H_shared_k{K}": np.full((N, K), -1.0)}}, "negative values"),
        ({"obsm": {"H_other": np.ones((N, K))}}, "lacks the scored embedding"),
        ({"varm": {}}, "no loadings"),
    ],
)
def test_blocks_that_break_the_schema_leave_nothing(tmp_path, change, expected):
    given = content(**change)
    filtered = filtered_file(tmp_path / "filtered.h5ad", given.pop("obs"), given.pop("var"))
    blocks = blocks_of(given.pop("obsm"))
    with pytest.raises(InputError, match=expected):
        write_result_blocks(tmp_path / "result.h5ad", filtered=filtered, blocks=blocks, **given)
    assert [file.name for file in tmp_path.iterdir()] == ["filtered.h5ad"]
