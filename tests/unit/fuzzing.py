"""Damage small h5ad files at random, and hold what the filter makes of them to a slow reader of its own.

    python tests/unit/fuzzing.py --mutations 5000 --seed 1

Each mutated file is either refused with an :class:`~nmfbench.errors.InputError`, or read as the slow reader
reads it. Anything else is a failure: a traceback, or a number that nobody should have got (the slow reader
refuses the file, or finds something else in it).
"""

from __future__ import annotations

import argparse
import copy
import itertools
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
from scipy import sparse

N_CELLS, N_GENES = 12, 5
NEEDED = ("obs", "var", "X")


class Refused(Exception):
    """The slow reader's verdict on a file that should not be used."""


# ---- sound files, as several writers leave them


def sound_file(path: Path, form: str) -> None:
    """A small atlas; `form` names the way it is stored."""
    rng = np.random.default_rng(7)
    X = rng.poisson(1.5, (N_CELLS, N_GENES)).astype(np.float32)
    X[:, 0] += 1
    X = {"csc": sparse.csc_matrix, "dense": np.asarray}.get(form, sparse.csr_matrix)(X)
    if form == "integers":
        X = X.astype(np.int32)
    types = pd.Categorical(np.array(["B cell", "T cell", "γδ T"])[np.arange(N_CELLS) % 3])
    donors = np.array(["D1", "D2"], dtype=object)[np.arange(N_CELLS) // 6]
    obs = pd.DataFrame(
        {"cell_type": types, "donor_id": donors, "n": np.arange(N_CELLS)},
        index=[f"cell{i}" for i in range(N_CELLS)],
    )
    var = pd.DataFrame(
        {"name": [f"G{i}" for i in range(N_GENES)], "length": np.arange(N_GENES) * 1.5},
        index=[f"ENSG{i}" for i in range(N_GENES)],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata = anndata.AnnData(X, obs=obs, var=var, obsm={"spatial": rng.normal(size=(N_CELLS, 2))})
        adata.write_h5ad(path, compression="gzip" if form == "packed" else None)
    with h5py.File(path, "r+") as file:
        if form == "apart":
            _categories_apart(file["obs"], "cell_type")
        if form == "fixed":
            file.visititems(lambda _, item: _fix_attributes(item))


def _categories_apart(obs: h5py.Group, name: str) -> None:
    """The layout of anndata 0.7."""
    codes, categories = obs[name]["codes"][:], obs[name]["categories"][:]
    del obs[name]
    apart = obs.create_group("__categories")
    apart.create_dataset(name, data=categories, dtype=h5py.string_dtype())
    obs.create_dataset(name, data=codes).attrs["categories"] = apart[name].ref
    obs.attrs["encoding-version"] = "0.1.0"


def _fix_attributes(item: Any) -> None:
    """Attributes of fixed length, as HDF5.jl and some Rust writers leave them."""
    for key, value in list(item.attrs.items()):
        if isinstance(value, str):
            item.attrs.create(key, np.bytes_(value.encode()))


_SOUND: dict[str, bytes] = {}
FORMS = ("csr", "csc", "dense", "integers", "packed", "apart", "fixed")


# ---- the slow reader


def slow_read(path: Path) -> dict[str, tuple[str, str, tuple[float, ...]]]:
    """Cell -> type, donor and counts of the cells that can be used, value by value.

    Raises
    ------
    Refused
        The file contradicts itself, or holds what cannot be counts.
    """
    with h5py.File(path, "r") as file:
        cells, genes = _index(file["obs"]), _index(file["var"])
        columns = [_labels(file["obs"], name, len(cells)) for name in ("cell_type", "donor_id")]
        counts = _counts(file["X"], len(cells), len(genes))
    if len(set(cells)) < len(cells):
        cells = None  # made unique in a way that is not this reader's business
    rows = {}
    for i, (kind, donor) in enumerate(zip(*columns, strict=True)):
        if kind is not None and donor is not None and sum(counts[i]) > 0:
            rows[i if cells is None else cells[i]] = (kind, donor, tuple(counts[i]))
    if not rows:
        raise Refused("no cell is left")
    return rows


def _word(value: Any) -> str:
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, str):
        value = value.encode("utf-8", "surrogateescape")
    if not isinstance(value, bytes):
        value = float(value)
        return (
            str(int(value))
            if value == value and value not in (np.inf, -np.inf) and value == int(value)
            else str(value)
        )
    for encoding in ("utf-8", "cp1252", "latin-1"):
        try:
            return value.decode(encoding)
        except UnicodeDecodeError:
            pass
    raise AssertionError


def _list(item: Any) -> list:
    if not isinstance(item, h5py.Dataset) or item.ndim != 1:
        raise Refused("not a list")
    if item.dtype.kind not in "OSiufb" or (
        item.dtype.kind == "O" and h5py.check_string_dtype(item.dtype) is None
    ):
        raise Refused("neither text nor numbers")
    return item[:].tolist()


def _index(group: Any) -> list[str]:
    if not isinstance(group, h5py.Group):
        raise Refused("not a frame")
    named = group.attrs.get("_index")
    name = _word(named) if named is not None and not isinstance(named, h5py.Empty) else ""
    if not name:
        name = next((usual for usual in ("_index", "index") if usual in group), "")
    if name not in group:
        raise Refused("no index")
    if isinstance(group[name], h5py.Group):
        return [_word(value) for value in _labels(group, name, None)]
    return [_word(value) for value in _list(group[name])]


def _labels(group: h5py.Group, name: str, n: int | None) -> list[str | None]:
    if name not in group:
        raise Refused(f"no {name}")
    item = group[name]
    if isinstance(item, h5py.Group):
        if {"values", "mask"} <= set(item) and "codes" not in item:
            values = [
                None if gone else value
                for value, gone in zip(_list(item["values"]), _list(item["mask"]), strict=True)
            ]
        elif {"codes", "categories"} <= set(item):
            values = _coded(_list(item["codes"]), _list(item["categories"]))
        else:
            raise Refused("an unknown form")
    elif isinstance(item.attrs.get("categories"), h5py.Reference):
        try:
            values = _coded(_list(item), _list(group[item.attrs["categories"]]))
        except ValueError as error:
            raise Refused("no categories") from error
    elif "__categories" in group and name in group["__categories"]:
        values = _coded(_list(item), _list(group["__categories"][name]))
    else:
        values = _list(item)
    if n is not None and len(values) != n:
        raise Refused(f"{len(values)} values for {n} cells")
    words = [None if value is None else _word(value) for value in values]
    return [
        None if word is None or word.strip().lower() in ("", "nan", "none", "<na>") else word
        for word in words
    ]


def _coded(codes: list, categories: list) -> list:
    if any(
        not isinstance(code, int) or isinstance(code, bool) or not -1 <= code < len(categories)
        for code in codes
    ):
        raise Refused("a code without a category")
    return [None if code == -1 else categories[code] for code in codes]


def _counts(item: Any, n_cells: int, n_genes: int) -> list[list[float]]:
    """Counts by cell and gene, entries given twice added up."""
    dense = [[0.0] * n_genes for _ in range(n_cells)]
    if isinstance(item, h5py.Dataset):
        if item.shape != (n_cells, n_genes) or item.dtype.kind not in "iufb":
            raise Refused("no matrix of numbers of this shape")
        entries = ((i, j, item[i, j]) for i in range(n_cells) for j in range(n_genes))
    else:
        entries = _entries(item, n_cells, n_genes)
    for i, j, value in entries:
        value = float(value)
        if not 0 <= value <= 2**31 or value != int(value):
            raise Refused(f"{value} is no count")
        dense[i][j] += value
        if dense[i][j] > 2**31:
            raise Refused("no count")
    return [[float(np.float32(value)) for value in row] for row in dense]


def _entries(group: Any, n_cells: int, n_genes: int):
    if not {"data", "indices", "indptr"} <= set(group):
        raise Refused("no sparse matrix")
    data, indices, indptr = (_list(group[part]) for part in ("data", "indices", "indptr"))
    if group["data"].dtype.kind not in "iufb":
        raise Refused("no numbers")
    if any(not isinstance(v, int) or isinstance(v, bool) for v in [*indices, *indptr]):
        raise Refused("indices that are no whole numbers")
    encoding = _word(group.attrs["encoding-type"]) if "encoding-type" in group.attrs else ""
    if encoding:
        shape = np.ravel(group.attrs.get("shape", ())).tolist()
        if shape != [n_cells, n_genes]:
            raise Refused("another shape")
    by_rows = {"csr_matrix": True, "csc_matrix": False, "": len(indptr) - 1 == n_cells}.get(encoding)
    if by_rows is None:
        raise Refused(f"encoding {encoding}")
    lines, others = (n_cells, n_genes) if by_rows else (n_genes, n_cells)
    rises = all(a <= b for a, b in itertools.pairwise(indptr))
    if len(indptr) != lines + 1 or indptr[0] != 0 or not rises or indptr[-1] != len(data) != -1:
        raise Refused("pointers")
    if len(indices) != len(data) or any(not 0 <= index < others for index in indices):
        raise Refused("indices")
    for line in range(lines):
        for at in range(indptr[line], indptr[line + 1]):
            yield (line, indices[at], data[at]) if by_rows else (indices[at], line, data[at])


# ---- mutations


def _objects(file: h5py.File, datasets: bool = False) -> list[str]:
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if not datasets or hasattr(item, "shape") else None)
    return names


def _replace(file: h5py.File, name: str, data: Any, **options: Any) -> None:
    attributes = {
        key: value for key, value in file[name].attrs.items() if not isinstance(value, h5py.Reference)
    }
    del file[name]
    file.create_dataset(name, data=data, **options).attrs.update(attributes)


def drop_attribute(file, rng):
    item = file[rng.choice(_objects(file))]
    if len(item.attrs):
        del item.attrs[rng.choice(list(item.attrs))]


def change_attribute(file, rng):
    item = file[rng.choice(_objects(file))]
    if len(item.attrs):
        key = rng.choice(list(item.attrs))
        values = [
            "rec-array",
            "csc_matrix",
            "csr_matrix",
            "categorical",
            "dataframe",
            "array",
            "nonsense",
            "",
        ]
        values += [
            np.bytes_(b"csr_matrix"),
            3,
            -1.5,
            np.array([]),
            np.array(["_index"], dtype="S6"),
            np.bytes_(b"\xff\xfe"),
        ]
        values += [np.array([N_CELLS, N_GENES, 2]), np.array([[1]]), h5py.Empty("f"), "index", "cell_type"]
        item.attrs[key] = values[rng.integers(len(values))]


def cast(file, rng):
    name = rng.choice(_objects(file, datasets=True))
    kinds = ["i1", "u1", "i2", ">i4", "u8", "f2", ">f4", "f8", "longdouble", "?", "c8", "S3", "M8[s]"]
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _replace(file, name, file[name][()].astype(rng.choice(kinds)))
    except (TypeError, ValueError):
        file.require_group("uns")


def resize(file, rng):
    name = rng.choice(_objects(file, datasets=True))
    values = file[name][()]
    if getattr(values, "ndim", 0) == 0:
        return
    shapes = [lambda v: v[:-1], lambda v: np.concatenate([v, v[-1:]]), lambda v: v[:0], lambda v: v[:, None]]
    shapes += [
        lambda v: np.stack([v, v], axis=1),
        lambda v: v[0],
        lambda v: v[::-1],
        lambda v: np.repeat(v, 2, axis=0),
    ]
    if len(values):
        new = shapes[rng.integers(len(shapes))](values)
        _replace(file, name, new, dtype=file[name].dtype)


def poke(file, rng):
    name = rng.choice(_objects(file, datasets=True))
    item = file[name]
    if not item.shape or 0 in item.shape:
        return
    at = tuple(int(rng.integers(size)) for size in item.shape)
    words = [
        b"\xff\xfe",
        b"",
        b"NA",
        b"nan",
        b"a\r",
        b'"',
        b"=1+1",
        b"M\xfcller",
        b"\xce\xb3",
        b"cell1",
        b"x" * 5000,
    ]
    numbers = [-1, -2, -128, 0, 1, 127, 255, 2**31, 2**40, 1e30, 1e300, np.nan, np.inf, -np.inf, 0.5, 2**63]
    chosen = words if h5py.check_string_dtype(item.dtype) is not None else numbers
    value = chosen[rng.integers(len(chosen))]
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            item[at] = np.asarray(value).astype(item.dtype) if chosen is numbers else value
    except (TypeError, ValueError, OverflowError):
        return


def restring(file, rng):
    names = [
        n
        for n in _objects(file, datasets=True)
        if h5py.check_string_dtype(file[n].dtype) is not None and file[n].shape
    ]
    name = rng.choice(names)
    texts = [bytes(text) for text in file[name][:]]
    texts = (
        [text.decode("utf-8", "ignore").encode("latin-1", "ignore") for text in texts]
        if rng.random() < 0.3
        else texts
    )
    if rng.random() < 0.5:
        _replace(file, name, np.array(texts, dtype="S"))
    else:
        _replace(file, name, np.array(texts, object), dtype=h5py.string_dtype(rng.choice(["ascii", "utf-8"])))


def recode(file, rng):
    names = [n for n in _objects(file, datasets=True) if n.endswith("codes") or n == "obs/cell_type"]
    if not names:
        return
    item = file[names[0]]
    item[int(rng.integers(len(item)))] = rng.choice([-2, -1, 0, 2, 3, 100, 127])


def unlink(file, rng):
    name = rng.choice(_objects(file))
    item = file[name]
    kind = rng.integers(5)
    del file[name]
    if kind == 1:
        file[name] = h5py.SoftLink("/nowhere")
    elif kind == 2:
        file[name] = h5py.ExternalLink("gone.h5", "/x")
    elif kind == 3:
        file.create_group(name)
    elif kind == 4:
        file[name] = np.arange(int(rng.integers(20)))
    del item


def rename(file, rng):
    name = rng.choice(_objects(file))
    file.move(name, f"{name}{rng.choice(['_', '.x', ' '])}")


def double_entries(file, rng):
    if isinstance(file["X"], h5py.Group) and {"data", "indices", "indptr"} <= set(file["X"]):
        kind = rng.choice(["u1", "i1", "f4"])
        data = np.minimum(file["X/data"][:] * 60, 120).astype(kind)
        _replace(file, "X/data", np.repeat(data, 2))
        _replace(file, "X/indices", np.repeat(file["X/indices"][:], 2))
        _replace(file, "X/indptr", 2 * file["X/indptr"][:])


INSIDE: list[Callable[[h5py.File, np.random.Generator], None]] = [
    drop_attribute, change_attribute, cast, resize, poke, restring, recode, unlink, rename, double_entries,
]  # fmt: skip


def flip_bytes(path: Path, rng: np.random.Generator) -> None:
    """Change a few bytes of the file, or cut it off."""
    content = bytearray(path.read_bytes())
    if rng.random() < 0.15:
        content = content[: int(rng.integers(len(content)))]
    else:
        for _ in range(int(rng.integers(1, 4))):
            content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)


def mutate(path: Path, form: str, rng: np.random.Generator) -> str:
    """Write a sound file, damage it in one to three ways; what was done."""
    if form not in _SOUND:
        sound_file(path, form)
        _SOUND[form] = path.read_bytes()
    path.write_bytes(_SOUND[form])
    done = []
    for _ in range(int(rng.integers(1, 4))):
        change = INSIDE[rng.integers(len(INSIDE))]
        with h5py.File(path, "r+") as file:
            try:
                change(file, rng)
            except (KeyError, RuntimeError, TypeError, ValueError, OSError):
                continue  # what an earlier change left cannot be changed so
        done.append(change.__name__)
    if rng.random() < 0.15:
        flip_bytes(path, rng)
        done.append("flip_bytes")
    return f"{form}: {', '.join(done)}"


# ---- the trial


def tried(path: Path, folder: Path) -> str:
    """What the filter makes of a file: refused, or read as the slow reader reads it.

    Raises
    ------
    AssertionError
        It was accepted and should not have been, or read otherwise.
    Exception
        Whatever the filter raises that is no InputError.
    """
    from nmfbench.data import filter_donors
    from nmfbench.errors import InputError

    output, donors = folder / "filtered.h5ad", folder / "donors.tsv"
    for left in (output, donors):
        left.unlink(missing_ok=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            filter_donors(path, output, donors, min_cells_per_donor=1)
    except InputError as error:
        refusal = error
    else:
        refusal = None
    if refusal is not None:
        assert all((refusal.thing, refusal.expected, refusal.got, refusal.remedy)), "a message with a hole"
        assert not output.exists(), "a refused file left a filtered one"
        return "refused"
    try:
        expected = slow_read(path)
    except Refused as why:
        raise AssertionError(f"accepted, though: {why}") from why
    kept = anndata.read_h5ad(output)
    names = kept.obs_names.tolist()
    X = kept.X.toarray()
    found = {
        name: (str(kind), str(donor), tuple(float(v) for v in row))
        for name, kind, donor, row in zip(names, kept.obs["cell_type"], kept.obs["donor_id"], X, strict=True)
    }
    if all(isinstance(key, int) for key in expected):  # ids were doubled
        assert sorted(found.values()) == sorted(expected.values()), "other content"
    else:
        assert found == expected, "other content"
    return "read"


def trials(n: int, seed: int, folder: Path) -> Counter:
    """Try `n` mutated files; how many were read and refused.

    Raises
    ------
    AssertionError
        Naming the seed of the file that failed.
    """
    counted: Counter = Counter()
    for number in range(n):
        rng = np.random.default_rng([seed, number])
        path = folder / "mutated.h5ad"
        done = mutate(path, FORMS[number % len(FORMS)], rng)
        try:
            counted[tried(path, folder)] += 1
        except Exception as error:
            raise AssertionError(
                f"seed {seed}, file {number} ({done}): {type(error).__name__}: {error}"
            ) from error
    return counted


# ---- configs


CONFIG: dict[str, Any] = {
    "datasets": {
        "a": {
            "path": "x.h5ad",
            "min_cells_per_donor": 5,
            "keep_obs": ["tissue"],
            "genes": {"select": "hvg", "n_top": 99},
        },
        "b": {
            "simulate": {"n_cells": 300, "ambient": 0.2},
            "keep_obs": ["tissue"],
            "matrix": {"source": "raw"},
        },
    },
    "models": {
        "base_nmf": {},
        "ae_nmf": {"tol": 1e-5, "max_iter": 3},
        "mine": {"kind": "cae_nmf1", "display_name": "M"},
    },
    "ranks": [4, 8],
    "seeds": [1, 2],
    "labels": ["cell_type", "donor_id", "tissue"],
    "device": "cpu",
    "normalisation": {"target_sum": 1e4, "log1p": True},
    "clustering": {"n_neighbours": 10, "resolution": 0.8, "n_iterations": 2, "seeds": [0, 1]},
    "classification": {"n_folds": 3, "min_cells_per_class": 6, "seeds": [1, 2], "classifiers": ["knn"]},
    "umap": {"max_cells": 500},
    "comparisons": [{"seeds_of": "ae_nmf"}],
}
SLIPS: list[Any] = [
    True, False, None, 0, -1, 1, 2, 2.5, 1e300, float("inf"), float("nan"), -0.5, 2**70, "1e-3",
    "", " ", "x", "a/b", "</script>", "=1", "\u202e", "logs", "tables", "cell_type", "donor_id",
    [], {}, [1, 1], [True], ["knn", "knn"], {"x": 1},
]  # fmt: skip


def slow_judge(value: Any, key: str = "") -> None:
    """Refuse what no accepted config may hold, by looking at every value of it."""
    if isinstance(value, float) and not np.isfinite(value):
        raise Refused(f"{key}: {value}")
    if isinstance(value, dict):
        for name, inner in value.items():
            slow_judge(inner, f"{key}.{name}")
    if isinstance(value, list | tuple):
        if key.rpartition(".")[2] in (
            "ranks",
            "seeds",
            "labels",
            "classifiers",
            "condition_columns",
            "keep_obs",
        ) and len(set(map(str, value))) < len(value):
            raise Refused(f"{key}: doubled")
        for inner in value:
            slow_judge(inner, key)
    last = key.rpartition(".")[2]
    if last in (
        "ranks",
        "seeds",
        "n_folds",
        "n_iterations",
        "n_neighbours",
        "tol",
        "resolution",
        "target_sum",
    ):
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, bool):
                raise Refused(f"{key}: a logical")
    if (
        last == "display_name"
        and value is not None
        and (set(value) & set("<>\n\u202e") or value[:1] in "=+-@")
    ):
        raise Refused(f"{key}: {value!r}")


def mutated_config(rng: np.random.Generator) -> tuple[dict, str]:
    """The sound config with a few slips; what they are."""
    config, done = copy.deepcopy(CONFIG), []
    for _ in range(int(rng.integers(1, 3))):
        node, key, path = config, None, []
        while isinstance(node, dict | list) and len(node) and (key is None or rng.random() < 0.75):
            above = node
            key = (
                list(node)[rng.integers(len(node))]
                if isinstance(node, dict)
                else int(rng.integers(len(node)))
            )
            node, path = above[key], [*path, key]
        slip = SLIPS[rng.integers(len(SLIPS))]
        kind = rng.integers(4)
        if kind == 0 and isinstance(above, dict):
            del above[key]
        elif kind == 1 and isinstance(above, dict):
            above[f"{key}_"] = above.pop(key)
        elif kind == 2 and isinstance(above, list):
            above.append(above[0])
        else:
            above[key] = copy.deepcopy(slip)
        done.append(f"{'.'.join(map(str, path))} ({kind}: {slip!r})")
    return config, "; ".join(done)


def config_trials(n: int, seed: int) -> Counter:
    """Try `n` configs with slips; how many were accepted and refused.

    Raises
    ------
    AssertionError
        One made a traceback, or was accepted with a value that must not be.
    """
    from nmfbench.config import load_config
    from nmfbench.errors import InputError

    counted: Counter = Counter()
    for number in range(n):
        config, done = mutated_config(np.random.default_rng([seed, number]))
        try:
            accepted = load_config(config)
            slow_judge(accepted.model_dump())
            accepted.compared_fits()
            counted["accepted"] += 1
        except InputError as error:
            counted["refused" if error.got.strip() and error.remedy else "unclear"] += 1
        except Exception as error:
            raise AssertionError(
                f"seed {seed}, config {number} ({done}): {type(error).__name__}: {error}"
            ) from error
    if counted["unclear"]:
        raise AssertionError(f"{counted['unclear']} messages with a hole")
    return counted


def main() -> int:
    """Try many files and say how they ended."""
    import logging

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutations", type=int, default=2000)
    parser.add_argument("--configs", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    logging.disable()
    counted, failures = Counter(), []
    with tempfile.TemporaryDirectory() as name:
        for number in range(given.mutations):
            rng = np.random.default_rng([given.seed, number])
            path = Path(name, "mutated.h5ad")
            done = mutate(path, FORMS[number % len(FORMS)], rng)
            try:
                counted[tried(path, Path(name))] += 1
            except Exception as error:
                failures.append(f"file {number} ({done}): {type(error).__name__}: {error}")
    print(f"{given.mutations} files: {dict(counted)}, {len(failures)} failures")
    print("\n".join(failures[:20]))
    print(f"{given.configs} configs: {dict(config_trials(given.configs, given.seed))}, 0 failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
