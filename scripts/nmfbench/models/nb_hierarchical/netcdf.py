"""A NetCDF-4 file of posterior draws, as ArviZ opens it, written through h5py: whole or not at all.

NetCDF-4 is HDF5 with a scale for each dimension. What is written here is the part of it that draws need:
groups, coordinates of numbers or text, float arrays that grow by draws, and attributes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

COMPRESSION = {"compression": "gzip", "compression_opts": 1, "shuffle": True}


class NetCDFWriter:
    """An open file; made by :func:`whole_netcdf`."""

    def __init__(self, file: h5py.File) -> None:
        self._file = file
        self._dimensions = 0

    def group(self, name: str, coordinates: Mapping[str, Sequence[Any]]) -> None:
        """Make a group with the dimensions and coordinates of its variables."""
        group = self._file.create_group(name, track_order=True)
        for dimension, values in coordinates.items():
            values = np.asarray(values)
            text = values.dtype.kind in "OUS"
            stored = [str(value) for value in values] if text else values
            scale = group.create_dataset(
                dimension, data=stored, dtype=h5py.string_dtype() if text else values.dtype, track_order=True
            )
            scale.make_scale(dimension)
            scale.attrs["_Netcdf4Dimid"] = np.int32(self._dimensions)
            self._dimensions += 1

    def variable(
        self, group: str, name: str, dimensions: Sequence[str], dtype: Any = np.float32
    ) -> h5py.Dataset:
        """Make a variable over dimensions of its group; to be filled by the caller."""
        place = self._file[group]
        shape = tuple(len(place[dimension]) for dimension in dimensions)
        chunks = (1, min(50, shape[1]), *shape[2:]) if len(shape) > 1 else None
        options = {} if chunks is None or 0 in shape else {"chunks": chunks, **COMPRESSION}
        made = place.create_dataset(name, shape, dtype, track_order=True, **options)
        for axis, dimension in enumerate(dimensions):
            made.dims[axis].attach_scale(place[dimension])
        return made

    def attributes(self, values: Mapping[str, Any], group: str | None = None) -> None:
        """Set attributes: numbers and text as they are, the rest as JSON; what is None is left out."""
        place = self._file if group is None else self._file[group]
        for name, value in values.items():
            if value is None:
                continue
            if isinstance(value, (bool, np.bool_)):
                value = int(value)
            elif not isinstance(value, (str, int, float, np.integer, np.floating)):
                value = json.dumps(value, default=lambda x: x.tolist() if hasattr(x, "tolist") else str(x))
            place.attrs[name] = value


@contextmanager
def whole_netcdf(path: str | Path) -> Iterator[NetCDFWriter]:
    """Write a NetCDF-4 file beside its place, and move it there when it is whole."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with h5py.File(temporary, "w", track_order=True) as file:
            yield NetCDFWriter(file)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
