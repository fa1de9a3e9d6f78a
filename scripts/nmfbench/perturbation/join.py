"""A given pair of files, a train part and a test part, as one screen."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from nmfbench.errors import InputError

SET, DUPLICATE = "set", "duplicate_of_train"


def join_pair(train: str, test: str, output: str, *, column: str, control: str) -> None:
    """Write the cells of two files to one, with the column ``set`` (train, test).

    Control cells may be in both files, under the same names: their second copies are marked, and left out of
    the screen, since a cell must not be trained on and scored.

    Parameters
    ----------
    train, test : str
        .h5ad files with counts of the same genes in X.
    output : str
    column, control : str
        The column of obs with the target, and the label of the control.

    Raises
    ------
    InputError
        The files have other genes, lack the column, or share cells that are no control cells.
    """
    import anndata
    import h5py
    import pandas as pd
    from anndata.experimental import concat_on_disk
    from anndata.io import write_elem

    parts = {}
    for name, path in (("train", train), ("test", test)):
        if not Path(path).is_file():
            raise InputError(f"{path}", "an .h5ad file", "no such file", "mend the path")
        backed = anndata.read_h5ad(path, backed="r")
        parts[name] = (backed.obs.copy(), list(backed.var_names))
        backed.file.close()
        if column not in parts[name][0]:
            got = ", ".join(map(str, parts[name][0].columns))
            raise InputError(f"{path}: obs", f"a column {column!r}", got, "set screen.column")
    if set(parts["train"][1]) != set(parts["test"][1]):
        n = len(set(parts["train"][1]) ^ set(parts["test"][1]))
        raise InputError(f"{test}: var", f"the genes of {train}", f"{n} others", "give both the same genes")
    labels = pd.concat([parts[name][0][column].astype(str) for name in ("train", "test")])
    names = np.concatenate([parts[name][0].index.astype(str) for name in ("train", "test")])
    is_test = np.repeat([False, True], [len(parts[name][0]) for name in ("train", "test")])
    twice = is_test & np.isin(names, names[~is_test])
    wrong = twice & (labels.to_numpy() != control)
    if wrong.any():
        raise InputError(
            f"{test}: obs",
            "cells of its own; only control cells may be in both files",
            f"{wrong.sum()} cells of {train}, such as {names[wrong][0]!r} ({labels.to_numpy()[wrong][0]})",
            "leave each cell in one of the files",
        )
    temporary = str(Path(output).with_name(f".{Path(output).stem}.part.h5ad"))
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    try:
        concat_on_disk([train, test], temporary, join="inner", index_unique=None)
        obs = pd.concat([parts["train"][0], parts["test"][0]])
        obs.index = [
            f"{name}-{place}" for place, name in zip(np.where(is_test, "test", "train"), names, strict=True)
        ]
        obs[SET] = pd.Categorical(np.where(is_test, "test", "train"))
        obs[DUPLICATE] = pd.Categorical(np.where(twice, "yes", "no"))
        for name in obs.select_dtypes("object").columns:
            obs[name] = pd.Categorical(obs[name].astype(str))
        with h5py.File(temporary, "r+") as file:
            del file["obs"]
            write_elem(file, "obs", obs)
        os.replace(temporary, output)
    finally:
        Path(temporary).unlink(missing_ok=True)
