"""Names of cells and labels come back from a table as they went in, whatever they are."""

from __future__ import annotations

import csv
import gzip

import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nmfbench.tables.files import guarded, read_table, unguarded, write_table

# HDF5 ends text at NUL, and a lone surrogate is no character: no name of a cell holds either.
LETTERS = st.characters(blacklist_categories=["Cs"], blacklist_characters="\0")
ODD = [
    "NA",
    "nan",
    "NaN",
    "null",
    "None",
    "",
    " ",
    "N/A",
    "#N/A",
    "<NA>",
    "-",
    "1",
    "01",
    "1.0",
    "1e5",
    "True",
]
ODD += [
    '"',
    "'",
    "''",
    '"quoted"',
    "a\tb",
    "a\nb",
    "a\r",
    "\r",
    "a\r\nb",
    ",",
    "a,b",
    "\ufeffx",
    "=1+1",
    "'=1+1",
]
ODD += [
    "-1",
    "+x",
    "@SUM(A1)",
    "\t=1",
    "\u202eabc",
    "γδ T",
    "x\x85y",
    "\u2028",
    "\\",
    "\\t",
    "#",
    "%",
    "\x1a",
]
NAMES = st.lists(st.sampled_from(ODD) | st.text(LETTERS, max_size=8), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tables")


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
    database=None,
)
@given(names=NAMES, suffix=st.sampled_from(["t.tsv", "t.tsv.gz", "t.csv"]), categorical=st.booleans())
@example(names=ODD, suffix="t.tsv.gz", categorical=False)
@example(names=ODD, suffix="t.csv", categorical=False)
def test_every_name_comes_back(folder, names, suffix, categorical):
    column = pd.Categorical(names) if categorical else names
    frame = pd.DataFrame({"cell": column, "donor": names[::-1], "UMAP1": range(len(names))})
    table = read_table(write_table(frame, folder / suffix), text=["cell", "donor"])
    assert table["cell"].tolist() == names
    assert table["donor"].tolist() == names[::-1]
    assert table["UMAP1"].tolist() == list(range(len(names)))


@pytest.mark.parametrize("name", ["=1+1", "=cmd|'/c calc'!A0", "+SUM(1)", "@x", "-2+3", "\t=1", " =1"])
def test_no_cell_is_a_formula(tmp_path, name):
    path = write_table(pd.DataFrame({"donor": [name], "n": [1]}), tmp_path / "donors.csv")
    with path.open(encoding="utf-8", newline="") as stream:
        _, row = csv.reader(stream)
    assert row[0].startswith("'")
    assert unguarded(row[0]) == name


@pytest.mark.parametrize("name", ["-1", "+1.5", "-", "=", "a=b", "CD4-positive", "1e-5", "-inf"])
def test_what_is_no_formula_stays(name):
    assert guarded(name) == name


def test_plain_tables_are_the_same_bytes_as_ever(tmp_path):
    frame = pd.DataFrame({"cell": ["a", "b c"], "x": [0.1, None], "n": [1, 2]})
    assert write_table(frame, tmp_path / "t.tsv").read_bytes() == b"cell\tx\tn\na\t0.1\t1\nb c\tNA\t2\n"
    packed = write_table(frame, tmp_path / "t.tsv.gz").read_bytes()
    assert gzip.decompress(packed) == (tmp_path / "t.tsv").read_bytes()
    assert packed[4:8] == b"\0\0\0\0"


def test_a_link_under_the_temporary_name_is_not_followed(tmp_path):
    (tmp_path / "mine.txt").write_text("precious", encoding="utf-8")
    (tmp_path / ".t.tsv.part").symlink_to("mine.txt")
    write_table(pd.DataFrame({"a": [1]}), tmp_path / "t.tsv")
    assert (tmp_path / "mine.txt").read_text(encoding="utf-8") == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt", "t.tsv"]
