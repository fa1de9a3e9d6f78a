"""Data frames of h5ad files, as any of the tools in use writes them.

anndata reads what anndata wrote. Here a frame is read by what lies in the file: text as UTF-8 whatever its
character set is said to be, names in attributes of fixed or of variable length, categories beside their codes
(anndata 0.8) or apart from them (0.7, SeuratDisk), values beside a mask, enumerations (hdf5r's logicals).
What contradicts itself is :class:`~nmfbench.data.h5ad.Unsound`; nothing is guessed but the encoding of text
that is not UTF-8.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from nmfbench.data.h5ad import Unsound, member, readable

if TYPE_CHECKING:
    import h5py
    import numpy as np
    import pandas as pd

Form = Literal["categories", "text", "numbers", "nullable", "enumeration"]
_USUAL_INDEX = ("_index", "index")
#: Columns that cannot be written: anndata keeps this name for the index.
RESERVED = "_index"


def as_str(value: Any) -> str:
    """Text of a stored word: UTF-8, and where it is not, the older encoding of Western Windows and R."""
    if getattr(value, "shape", None) is not None and getattr(value, "size", 0) == 1:
        value = value.item()
    if isinstance(value, str):
        if value.isascii():
            return str(value)
        value = value.encode("utf-8", "surrogateescape")  # h5py's way to hold bytes that are not UTF-8
    if not isinstance(value, bytes):
        return str(value)
    for encoding in ("utf-8", "cp1252"):
        try:
            return value.decode(encoding)
        except UnicodeDecodeError:
            continue
    return value.decode("latin-1")  # has a character for every byte


def texts(values: np.ndarray) -> list[str]:
    """:func:`as_str` of each value; the quick way where all are UTF-8."""
    given = values.tolist()
    try:
        return [value.decode("utf-8") for value in given]
    except (UnicodeDecodeError, AttributeError):
        return [as_str(value) for value in given]


def not_utf8(values: Iterable[Any]) -> int:
    """How many of the values are bytes that are not UTF-8."""

    def is_not(value: Any) -> bool:
        try:
            value.decode("utf-8")
        except UnicodeDecodeError:
            return True
        return False

    return sum(is_not(value) for value in values if isinstance(value, bytes))


def foreign_text(values: Iterable[Any], what: str) -> list[str]:
    """A warning where some of the values are not UTF-8."""
    count = not_utf8(values)
    return [f"{what}: {count} values are not UTF-8 and were read as Windows-1252 (Latin-1)"] if count else []


def attribute(item: Any, name: str, default: Any = None) -> Any:
    """An attribute of an HDF5 object: text as str, arrays of text as a list of str, else as it is."""
    import h5py
    import numpy as np

    if name not in item.attrs:
        return default
    value = item.attrs[name]
    if isinstance(value, h5py.Empty):
        return default
    if isinstance(value, str | bytes):
        return as_str(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "OSU":
        words = [as_str(word) for word in value.ravel().tolist()]
        return words[0] if value.ndim == 0 else words
    return value


def word(item: Any, name: str, default: str = "") -> str:
    """An attribute that is one word; some writers put it into an array of one."""
    value = attribute(item, name, default)
    return as_str(value[0] if isinstance(value, list) and len(value) == 1 else value)


def index_name(group: h5py.Group) -> str:
    """Name of the dataset that holds the index of a stored frame."""
    named = word(group, "_index")
    if named:
        return named
    usual = [name for name in _USUAL_INDEX if name in group]
    if not usual:
        raise Unsound("no index: the attribute '_index' is missing", "write it with AnnData.write_h5ad")
    return usual[0]


def index_of(group: h5py.Group) -> h5py.Dataset | h5py.Group:
    """Where the index of a stored frame lies; nullable text and categories are groups."""
    return member(group, index_name(group))


def frame_columns(group: h5py.Group) -> list[str]:
    """Names of the columns of a stored frame that are there, in its own order."""
    order = attribute(group, "column-order")
    if order is not None and not isinstance(order, str | list) and getattr(order, "size", 1):
        raise Unsound(f"an order of the columns that is no list of names ({order!r})")
    order = [order] if isinstance(order, str) else order
    names = list(group) if order is None else [as_str(name) for name in order]
    index = index_name(group)
    return [
        name for name in dict.fromkeys(names) if name != index and not name.startswith("__") and name in group
    ]


def frame_length(group: h5py.Group) -> int:
    """Number of rows of a stored frame."""
    import h5py

    index = index_of(group)
    if not isinstance(index, h5py.Dataset):
        index = member(index, "codes" if "codes" in index else "values")
    if index.ndim != 1:
        raise Unsound(f"an index of shape {index.shape} instead of a list of names")
    return int(index.shape[0])


def as_text(value: Any) -> str:
    """Text of one label: whole floats lose their '.0', so that donors 1 and 1.0 are one."""
    import numpy as np

    if isinstance(value, bytes):
        return as_str(value)
    if isinstance(value, float | np.floating) and np.isfinite(value) and value == int(value):
        return str(int(value))
    return str(value)


def frame_index(group: h5py.Group) -> np.ndarray:
    """Index of a stored frame, as text; shape (rows,), objects."""
    import numpy as np

    values = frame_column(group, index_name(group))
    if stored_form(group, index_name(group)) == "text":
        return values
    return np.array([as_text(value) for value in values], dtype=object)


def stored_form(group: h5py.Group, name: str) -> Form:
    """How a column of a stored frame lies in the file.

    Raises
    ------
    Unsound
        In none of the forms that are known.
    """
    import h5py

    item = member(group, name)
    if isinstance(item, h5py.Group):
        if "codes" in item and "categories" in item:
            return "categories"
        if "values" in item and "mask" in item:
            return "nullable"
        encoding = word(item, "encoding-type", "unknown")
        raise Unsound(f"a column stored as {encoding!r}, which is no list of values", _REMEDY)
    if item.ndim != 1:
        raise Unsound(f"an array of shape {item.shape} instead of one value a row", _REMEDY)
    if _categories_apart(group, name) is not None:
        return "categories"
    if h5py.check_string_dtype(item.dtype) is not None:
        return "text"
    if h5py.check_enum_dtype(item.dtype) is not None and item.dtype.kind != "b":
        return "enumeration"
    if item.dtype.kind in "iufb":
        return "numbers"
    raise Unsound(f"values of type {item.dtype}", _REMEDY)


_REMEDY = "choose another column, or turn it into text or numbers and save the file with AnnData.write_h5ad"


def _categories_apart(group: h5py.Group, name: str) -> h5py.Dataset | None:
    """The categories of a column of anndata 0.7 or SeuratDisk, to which the column refers."""
    import h5py

    reference = group[name].attrs.get("categories")
    if isinstance(reference, h5py.Reference):
        try:
            return group[reference]
        except (ValueError, KeyError) as error:
            raise Unsound("categories that are not there", _REMEDY) from error
    apart = group.get("__categories")
    return member(apart, name) if isinstance(apart, h5py.Group) and name in apart else None


def codes_and_categories(group: h5py.Group, name: str) -> tuple[np.ndarray, Sequence[Any]]:
    """Codes (-1 is missing) of a column with categories or an enumeration, and what they stand for.

    Raises
    ------
    Unsound
        A code stands for nothing.
    """
    import h5py
    import numpy as np

    n = frame_length(group)
    item = group[name]
    if isinstance(item, h5py.Dataset) and (names := h5py.check_enum_dtype(item.dtype)) is not None:
        codes = _values(item, n)
        known = {value: label for label, value in names.items()}
        there = np.unique(codes)
        if unknown := sorted(set(there.tolist()) - set(known)):
            raise Unsound(f"the value {unknown[0]}, for which the enumeration has no name")
        return np.searchsorted(there, codes), [known[value] for value in there.tolist()]
    codes = _values(member(item, "codes") if isinstance(item, h5py.Group) else item, n)
    if codes.dtype.kind not in "iu":
        raise Unsound(f"codes of categories that are no whole numbers ({codes.dtype})")
    categories = _category_values(
        member(item, "categories") if isinstance(item, h5py.Group) else _categories_apart(group, name)
    )
    low, high = (int(codes.min()), int(codes.max())) if len(codes) else (-1, -1)
    if low < -1 or high >= len(categories):
        raise Unsound(
            f"the code {low if low < -1 else high}, where there are {len(categories)} categories "
            "(0 to the last, -1 is missing)",
            "the file is damaged: download or write it again",
        )
    return codes, categories


def _category_values(item: h5py.Group | h5py.Dataset) -> Sequence[Any]:
    """Categories as they are stored: bytes or numbers; None for a masked one."""
    import h5py

    if not isinstance(item, h5py.Group):
        values = _values(item)
        return values.tolist() if values.dtype.kind in "OS" else values
    values, mask = _values(member(item, "values")), _values(member(item, "mask"))
    return [None if gone else value for value, gone in zip(values.tolist(), mask, strict=True)]


def _values(item: h5py.Dataset, n: int | None = None) -> np.ndarray:
    """A whole one-dimensional dataset in native byte order, which has `n` entries."""
    if item.ndim != 1:
        raise Unsound(f"an array of shape {item.shape} instead of a list")
    if n is not None and item.shape[0] != n:
        raise Unsound(f"{item.shape[0]} values in a frame of {n} rows", _REMEDY)
    values = readable(item)[:]
    return values if values.dtype.isnative else values.astype(values.dtype.newbyteorder("="))


def frame_column(group: h5py.Group, name: str) -> Any:
    """One column of a stored frame: an array, a categorical or a nullable array; text is str or None.

    Raises
    ------
    Unsound
        It is none, or has another length than the frame.
    """
    import h5py
    import numpy as np
    import pandas as pd

    form, n = stored_form(group, name), frame_length(group)
    if form in ("categories", "enumeration"):
        codes, categories = codes_and_categories(group, name)
        return _categorical(codes, categories, bool(attribute(group[name], "ordered", False)))
    if form == "numbers":
        return _values(group[name], n)
    if form == "text":
        return np.array(texts(_values(group[name], n)), dtype=object)
    values, mask = (_values(member(group[name], part), n) for part in ("values", "mask"))
    mask = mask.astype(bool)
    if h5py.check_string_dtype(group[name]["values"].dtype) is not None:
        return np.array([None if m else as_str(v) for v, m in zip(values, mask, strict=True)], dtype=object)
    if values.dtype.kind == "b":
        return pd.arrays.BooleanArray(values, mask)
    if values.dtype.kind in "iu":
        return pd.arrays.IntegerArray(values, mask)
    return np.where(mask, np.nan, values)


def _categorical(codes: np.ndarray, categories: Sequence[Any], ordered: bool) -> pd.Categorical:
    """A categorical; categories that are the same text are one."""
    import numpy as np
    import pandas as pd

    if not isinstance(categories, np.ndarray):
        categories = [None if category is None else as_str(category) for category in categories]
    # a name twice, or none at all, is no category to pandas
    places, unique = pd.factorize(np.asarray(categories))
    if len(unique) < len(categories):
        codes = np.append(places, -1)[codes]
        ordered = False
    return pd.Categorical.from_codes(codes, categories=unique, ordered=ordered)


def read_frame(group: h5py.Group) -> pd.DataFrame:
    """A whole stored frame with a text index."""
    import pandas as pd

    index = pd.Index(frame_index(group), dtype=object)
    columns = {name: frame_column(group, name) for name in frame_columns(group)}
    return pd.DataFrame(columns, index=index, columns=pd.Index(list(columns), dtype=object))


def read_lenient_frame(
    group: h5py.Group, what: str, index: np.ndarray | None = None
) -> tuple[pd.DataFrame, list[str]]:
    """A stored frame of which only the index is needed: columns that cannot be carried are left out.

    Parameters
    ----------
    group
        The stored frame.
    what
        Its name, for the warnings.
    index
        Its index where it was read already.

    Returns
    -------
    frame : DataFrame
        Text index; text columns are text, or categories where some of it is missing.
    warnings : list of str
        What was left out, and why.
    """
    import pandas as pd

    index = pd.Index(frame_index(group) if index is None else index, dtype=object)
    columns, notes = {}, []
    for name in frame_columns(group):
        try:
            if name == RESERVED or "/" in name:
                raise Unsound("a name that anndata does not write")
            columns[name] = _writable(frame_column(group, name))
        except MemoryError:
            raise
        except Exception as error:  # whatever is wrong with it: nobody asked for it
            notes.append(f"{what}[{name!r}] is left out: {' '.join(str(error).split())}")
    return pd.DataFrame(columns, index=index, columns=pd.Index(list(columns), dtype=object)), notes


def _writable(values: Any) -> Any:
    """Text with gaps as categories, which each version of anndata writes and reads."""
    import numpy as np
    import pandas as pd

    gaps = isinstance(values, np.ndarray) and values.dtype == object and any(v is None for v in values)
    return pd.Categorical(values) if gaps else values
