"""What a file is that is no h5ad file, and what to do with it: asked only when one cannot be used."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import h5py

Refusal = tuple[str, str]
"""What the file is, and what to do."""

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_SAVE_RDS = (
    "turn it into .h5ad in R: zellkonverter::writeH5AD(as.SingleCellExperiment(object), 'file.h5ad'), or "
    "SeuratDisk"
)
_STARTS = {
    b"RDX": ("an R workspace (.RData)", _SAVE_RDS),
    b"X\n": ("an R object (.rds)", _SAVE_RDS),
    b"\x1f\x8b": ("a gzip archive", "unpack it with gunzip"),
    b"BZh": ("a bzip2 archive", "unpack it with bunzip2"),
    b"\xfd7zXZ": ("an xz archive (or an R object saved with xz)", "unpack it with unxz"),
    b"\x28\xb5\x2f\xfd": ("a file packed with zstd", "unpack it with unzstd"),
    b"PK": ("a zip archive (a zarr store?)", "unpack it, or save it with AnnData.write_h5ad"),
    b"<": ("a web page or XML", "download the file itself, not the page that links to it"),
    b"%%MatrixMarket": (
        "a MatrixMarket file (.mtx)",
        "read it with scanpy.read_10x_mtx or scanpy.read_mtx and save it with write_h5ad",
    ),
    b"version https://git-lfs": ("a pointer of git-lfs, not the file itself", "fetch it with `git lfs pull`"),
    b"PAR1": ("a parquet file", "build an AnnData from it and save it with write_h5ad"),
    b"CDF": ("a NetCDF file", "give a file written by AnnData.write_h5ad"),
    b"\x93NUMPY": ("a numpy array", "build an AnnData from it and save it with write_h5ad"),
}


def of_start(path: Path) -> Refusal | None:
    """What a file is by its first bytes; None for HDF5.

    Raises
    ------
    OSError
        It cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(32)
        # a user block moves the beginning to 512, 1024, 2048 ... bytes
        place = 0
        while place + len(_SIGNATURE) <= size:
            stream.seek(place)
            if stream.read(len(_SIGNATURE)) == _SIGNATURE:
                return None
            place = max(2 * place, 512)
    if not start:
        return "an empty file (0 bytes)", "download or copy it again"
    if start.startswith(b"\x1f\x8b"):
        start = _unpacked(path) or start
    for known, words in _STARTS.items():
        if start.startswith(known):
            return words
    return "a file that is not HDF5", "give a file written by AnnData.write_h5ad"


def _unpacked(path: Path) -> bytes | None:
    """First bytes inside a gzip file, where those tell more: R saves its objects so."""
    try:
        with gzip.open(path) as stream:
            inside = stream.read(32)
    except (OSError, EOFError, zlib.error):
        return None
    return inside if inside.startswith((b"RDX", b"X\n", b"%%MatrixMarket")) else None


def of_folder(path: Path) -> Refusal:
    """What a folder is that was given for a file."""
    inside = {entry.name for entry in path.iterdir()}
    if inside & {".zgroup", ".zattrs", ".zarray", ".zmetadata", "zarr.json"}:
        return (
            "a folder: a zarr store",
            f"save it as one file: anndata.read_zarr({path.name!r}).write_h5ad('{path.stem}.h5ad'), then "
            "set datasets.<name>.path to that",
        )
    if any(name.startswith("__tiledb") for name in inside):
        return (
            "a folder: a TileDB-SOMA experiment",
            "export it (tiledbsoma.io.to_anndata) and save it with write_h5ad",
        )
    if {"matrix.mtx", "matrix.mtx.gz"} & inside:
        return (
            "a folder: a 10x matrix",
            "read it with scanpy.read_10x_mtx and save it with write_h5ad",
        )
    return "a folder", "check datasets.<name>.path in the config"


def of_outline(file: h5py.File) -> Refusal | None:
    """What an HDF5 file is by the names in it; None where nothing speaks against an h5ad file."""
    inside = set(file)
    if "mod" in inside:
        names = ", ".join(list(file["mod"])[:5]) if hasattr(file["mod"], "keys") else ""
        return (
            f"a MuData file with the modalities mod/{names}",
            "save the modality with the counts: mudata.read_h5mu(path)['rna'].write_h5ad('rna.h5ad')",
        )
    if "matrix" in inside and inside & {"row_attrs", "col_attrs"}:
        return "a loom file", "save it as .h5ad: scanpy.read_loom(path).write_h5ad('file.h5ad')"
    tables = [file[name] for name in inside if file.get(name, getclass=True).__name__ == "Group"]
    if any({"barcodes", "indptr"} <= set(table) for table in tables):
        return (
            "an .h5 file of 10x Genomics (Cell Ranger or CellBender)",
            "save it as .h5ad: adata = scanpy.read_10x_h5(path); add cell types and donors to adata.obs; "
            "adata.write_h5ad('file.h5ad')",
        )
    if {"cell.names", "meta.data"} <= inside:
        return "an .h5Seurat file", "turn it into .h5ad in R: SeuratDisk::Convert(path, dest = 'h5ad')"
    return None
