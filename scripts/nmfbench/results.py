"""The results-only .h5ad: which keys it has, written and read with the same checks.

A result holds the embedding and the loadings of one fit, the labels of its
cells and no counts: ``X`` is empty. The keys of ``obsm``, ``varm`` and ``uns``
are those of the published benchmark scripts, so that these read our files
unchanged; ``uns["nmfbench"]`` adds what this workflow needs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nmfbench.data.checksum import as_stored, checksums, require_same, whole
from nmfbench.errors import InputError
from nmfbench.inapplicable import reason_in

if TYPE_CHECKING:
    import anndata
    import h5py
    import pandas as pd

SCHEMA = "nmfbench-result-1"
SECTIONS = ("obs", "var", "obsm", "varm", "uns")
_CHECKSUMS = "uns/nmfbench/checksums"
_TRAIN_AGAIN = "delete the file and run snakemake again; it will be trained anew"
REQUIRED_OBS = ("cell_type", "donor_id")
REQUIRED_UNS = ("schema", "model", "display_name", "rank", "seed", "embedding", "uses_labels")


def write_result(
    path: str | Path,
    *,
    obs: pd.DataFrame,
    var: pd.DataFrame,
    obsm: Mapping[str, np.ndarray],
    varm: Mapping[str, np.ndarray],
    uns: Mapping[str, Any],
    record: Mapping[str, Any],
) -> str:
    """Write a result, whole or not at all.

    Parameters
    ----------
    path : str or Path
        Where the .h5ad goes. A temporary file beside it is renamed at the end.
    obs : DataFrame of n cells
        At least ``cell_type`` and ``donor_id``.
    var : DataFrame of p genes
    obsm : mapping of str to ndarray of shape (n, .)
        Embeddings, as :meth:`embeddings` of a model gives them.
    varm : mapping of str to ndarray of shape (p, .)
        Loadings, as :meth:`loadings` of a model gives them.
    uns : mapping
        Further keys of the published format, as :meth:`unstructured` gives them.
    record : mapping
        What goes into ``uns["nmfbench"]``: ``model``, ``display_name``, ``rank``, ``seed``,
        ``embedding`` (the key of obsm that is scored) and ``uses_labels``; ``non_negative`` False where the
        model does not claim that its numbers are not negative.

    Returns
    -------
    str
        Checksum of the content, for ``run.json``; those of its parts are in ``uns["nmfbench"]["checksums"]``.

    Raises
    ------
    InputError
        If the content does not follow the schema (a defect of a model, not of its user), or the disk is
        full.
    """
    import anndata

    from nmfbench.data.writer import whole_h5ad, write_sections

    path = Path(path)
    adata = anndata.AnnData(
        obs=obs.copy(),
        var=var.copy(),
        obsm={key: np.asarray(value) for key, value in obsm.items()},
        varm={key: np.asarray(value) for key, value in varm.items()},
        uns=_uns(uns, record),
    )
    check_result(adata, path)
    with whole_h5ad(path) as new:
        sections = {name: getattr(adata, name) for name in ("obs", "var", "uns")}
        sections |= {name: dict(getattr(adata, name)) for name in ("obsm", "varm")}
        write_sections(new.hdf5, sections)
        return _seal(new.hdf5)


def write_result_blocks(
    path: str | Path,
    *,
    filtered: str | Path,
    blocks: Iterable[tuple[int, Mapping[str, np.ndarray]]],
    varm: Mapping[str, np.ndarray],
    uns: Mapping[str, Any],
    record: Mapping[str, Any],
) -> str:
    """Write a result whose embeddings come a block of cells at a time; whole or not at all.

    Nothing that grows with the number of cells is in memory: the names and labels of the cells are copied
    from file to file.

    Parameters
    ----------
    path, varm, uns, record
        As in :func:`write_result`.
    filtered : str or Path
        The filtered counts, whose obs and var are taken over.
    blocks : iterable of (int, mapping of str to ndarray of shape (cells of the block, .))
        First cell's number and the arrays for obsm, covering all cells.

    Returns
    -------
    str
        As of :func:`write_result`.

    Raises
    ------
    InputError
        As :func:`write_result`.
    """
    from nmfbench.data.filtered import verify_section
    from nmfbench.data.frames import frame_columns, frame_length
    from nmfbench.data.h5ad import open_h5ad
    from nmfbench.data.writer import begin_array, whole_h5ad, write_sections

    path, uns = Path(path), _uns(uns, record)
    with open_h5ad(filtered) as source, whole_h5ad(path) as new:
        for name in ("obs", "var"):
            verify_section(source, filtered, name)
            source.copy(name, new.hdf5)
        write_sections(new.hdf5, {"uns": uns, "varm": dict(varm)})
        n_cells, widths = frame_length(source["obs"]), {}
        signed = _may_be_negative(uns)
        faults = [
            fault for key, values in varm.items() for fault in _faults_of(f"varm[{key!r}]", values, signed)
        ]
        for start, parts in blocks:
            for key, values in parts.items():
                if key not in widths:
                    widths[key] = values.shape[1]
                    begin_array(new.hdf5["obsm"], key, (n_cells, values.shape[1]), values.dtype)
                new.hdf5["obsm"][key][start : start + len(values)] = values
                faults += _faults_of(f"obsm[{key!r}], cells from {start}", values, signed)
            new.check()
        columns = frame_columns(source["obs"])
        _refuse(path, _faults_of_keys(uns, columns, widths, varm) + faults)
        return _seal(new.hdf5)


def _seal(file: h5py.File) -> str:
    """Store the checksums of what was written; gives the one of all of it."""
    from anndata.io import write_elem

    found = checksums(file, *SECTIONS, skip=_CHECKSUMS)
    write_elem(file, _CHECKSUMS, as_stored(found))
    return whole(found)


def read_result(path: str | Path, fit: Mapping[str, Any] | None = None) -> anndata.AnnData:
    """Read a result and check that it follows the schema and is what the training wrote.

    Parameters
    ----------
    path : str or Path
        The file. Where the ``run.json`` of its training lies beside it, the two have to belong together.
    fit : mapping, optional
        ``model``, ``rank`` and ``seed`` that the result has to be of.

    Raises
    ------
    InputError
        If the file is missing, damaged, changed, of another fit, or not a result of this workflow.
    """
    import anndata

    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file", "a result.h5ad", "nothing", "run the rule that trains it")
    if (reason := reason_in(path)) is not None:
        raise InputError(f"{path}: it holds no result", "a fit", f"not applicable: {reason}", "other data")
    try:
        _verify(path)
        adata = anndata.read_h5ad(path)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{path}: it cannot be read",
            "a result.h5ad of this workflow",
            f"{type(error).__name__}: {error}",
            _TRAIN_AGAIN,
        ) from error
    check_result(adata, path)
    _require_fit(path, adata.uns["nmfbench"], fit or {})
    return adata


def _verify(path: Path) -> None:
    """Compare the content with its checksums, and with the run.json beside it."""
    import h5py

    with h5py.File(path, "r", locking="best-effort") as file:
        if _CHECKSUMS not in file:
            return  # of an earlier version
        stored = json.loads(file[_CHECKSUMS][()])
        require_same(path, stored, checksums(file, *SECTIONS, skip=_CHECKSUMS), _TRAIN_AGAIN)
    record = path.with_name("run.json")
    try:
        expected = json.loads(record.read_text(encoding="utf-8")).get("result_checksum")
    except (OSError, ValueError, AttributeError):
        return  # no record, or one that whoever reads it will refuse
    if expected is not None and expected != whole(stored):
        raise InputError(
            f"{path}: it is not the result that {record} tells of",
            f"the content with the checksum {expected[:12]}...",
            f"{whole(stored)[:12]}...: the result of another fit",
            _TRAIN_AGAIN,
        )


def _require_fit(path: Path, record: Mapping[str, Any], fit: Mapping[str, Any]) -> None:
    wanted = {key: str(fit[key]) for key in ("model", "rank", "seed") if key in fit}
    found = {key: str(record[key]) for key in wanted}
    if wanted != found:
        raise InputError(
            f"{path}: it is the result of another fit",
            ", ".join(f"{key} {value}" for key, value in wanted.items()),
            ", ".join(f"{key} {value}" for key, value in found.items()),
            _TRAIN_AGAIN,
        )


def read_embedding(path: str | Path, fit: Mapping[str, Any] | None = None) -> tuple[np.ndarray, pd.DataFrame]:
    """Read what is scored: the embedding and the labels of its cells.

    Parameters
    ----------
    path, fit
        As of :func:`read_result`.

    Returns
    -------
    H : ndarray of shape (n, k)
        The embedding named by ``uns["nmfbench"]["embedding"]``, float32.
    obs : DataFrame of n cells
    """
    adata = read_result(path, fit)
    H = np.asarray(adata.obsm[adata.uns["nmfbench"]["embedding"]], dtype=np.float32)
    return H, adata.obs


def cells_of_dataset(path: str | Path) -> np.ndarray | None:
    """Which cells of the filtered dataset a result has, by their numbers there; None: all of them."""
    from nmfbench.data.h5ad import open_h5ad

    with open_h5ad(path) as file:
        stored = file.get("uns/nmfbench/cells")
        return None if stored is None else stored[()]


def check_result(adata: anndata.AnnData, path: str | Path) -> None:
    """Check the schema of a result; the message names every key that is amiss."""
    widths = {key: values.shape[1] for key, values in adata.obsm.items()}
    faults = _faults_of_keys(adata.uns, adata.obs.columns, widths, adata.varm)
    for kind, arrays in (("obsm", adata.obsm), ("varm", adata.varm)):
        for key, values in arrays.items():
            faults += _faults_of(f"{kind}[{key!r}]", values, _may_be_negative(adata.uns))
    _refuse(path, faults)


def _faults_of_keys(
    uns: Mapping[str, Any], columns: Iterable[str], widths: Mapping[str, int], varm: Mapping[str, Any]
) -> list[str]:
    """What is amiss with the keys; `widths` are the factors of each array of obsm."""
    record = uns.get("nmfbench", {})
    columns, faults = set(columns), []
    if record.get("schema") != SCHEMA:
        faults.append(f"uns['nmfbench']['schema'] is {record.get('schema')!r}, not {SCHEMA!r}")
    faults += [f"uns['nmfbench'] lacks {key!r}" for key in REQUIRED_UNS if key not in record]
    faults += [f"obs lacks {key!r}" for key in REQUIRED_OBS if key not in columns]
    if "model_name" not in uns:
        faults.append("uns lacks 'model_name'")
    if record.get("embedding") not in widths:
        faults.append(f"obsm lacks the scored embedding {record.get('embedding')!r}")
    elif widths[record["embedding"]] < 1:
        faults.append(f"obsm[{record['embedding']!r}] has no factor")
    if not varm:
        faults.append("varm holds no loadings")
    return faults


def _may_be_negative(uns: Mapping[str, Any]) -> bool:
    return not uns.get("nmfbench", {}).get("non_negative", True)


def _faults_of(name: str, values: np.ndarray, signed: bool) -> list[str]:
    """What is amiss with the numbers of one array, or of a block of it."""
    if not np.isfinite(values).all():
        return [f"{name} holds values that are not finite"]
    if not signed and values.size and values.min() < 0:
        return [f"{name} holds negative values (smallest {values.min():.3g})"]
    return []


def _refuse(path: str | Path, faults: list[str]) -> None:
    if faults:
        raise InputError(
            f"{path}: not a valid result",
            f"the schema {SCHEMA}",
            "; ".join(faults[:10]),
            "delete the file and train it again; if it comes back, report it with the log of the rule",
        )


def _uns(uns: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    return {**_storable(uns), "nmfbench": {"schema": SCHEMA, **_storable(record)}}


def _storable(value: Any) -> Any:
    """Turn a nested mapping into what .h5ad can hold: no None, lists of strings as arrays."""
    if isinstance(value, Mapping):
        return {str(key): _storable(item) for key, item in value.items() if item is not None}
    if isinstance(value, tuple | list):
        return np.asarray(value)
    return value
