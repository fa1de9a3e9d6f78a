"""What a cell costs in memory while its atlas is streamed: peaks of processes of their own at two sizes."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from nmfbench.data.filtered import PROVENANCE_KEY
from nmfbench.data.writer import whole_h5ad, write_sections

SIZES = 70_000, 270_000  # both above the rows of the largest block
LENGTH = 40  # of a cell's name, as CELLxGENE has them

FILTER = """
import sys
import anndata.io, h5py, pandas, scipy.sparse  # what the work imports: not part of the growth
from nmfbench.data import filter_donors
from nmfbench.memory import peak_mb, return_freed_arrays
folder = sys.argv[1]
return_freed_arrays()
filter_donors(folder + "/source.h5ad", folder + "/filtered.h5ad", folder + "/donors.tsv",
              keep_obs=["batch", "n_counts"])
print(peak_mb())
"""

READ = """
import sys
from nmfbench.data import read_filtered
from nmfbench.memory import peak_mb
data, before = read_filtered(sys.argv[1]), peak_mb()
for block in data.blocks():
    pass
print(peak_mb() - before)
"""


def write_source(path, n):
    """Two counts a cell, so that these do not hide what a cell costs; some columns are plain text."""
    number = np.arange(n)
    obs = {
        "cell_type": pd.Categorical(np.array(["T cell", "B cell", "NK cell"])[number % 3]),
        "donor_id": np.array(["D1", "D2"], dtype=object)[number % 2],
        "batch": np.array(["one", "two", "three"], dtype=object)[number % 3],
        "n_counts": number.astype(np.float64),
    }
    counts = sparse.csr_matrix(
        (np.ones(2 * n, np.float32), np.tile(np.arange(2, dtype=np.int32), n), np.arange(0, 2 * n + 1, 2)),
        (n, 2),
    )
    names = [f"{i:0{LENGTH}d}" for i in range(n)]
    var = pd.DataFrame(index=["G1", "G2"])
    with whole_h5ad(path) as new:
        write_sections(new.hdf5, {"X": counts, "obs": pd.DataFrame(obs, index=names), "var": var})


def printed(code, path):
    """The number that a process of its own prints."""
    command = [sys.executable, "-c", code, str(path)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="peaks are those that Linux tells")


def test_bytes_a_cell_of_the_filter(tmp_path):
    """About 50 with such names; 257 when names, row pointers and columns of all cells were held."""
    peaks = []
    for n in SIZES:
        folder = tmp_path / str(n)
        folder.mkdir()
        write_source(folder / "source.h5ad", n)
        peaks.append(printed(FILTER, folder))
    assert 1e6 * (peaks[1] - peaks[0]) / (SIZES[1] - SIZES[0]) < 100


def test_a_pass_does_not_keep_what_it_has_read(tmp_path):
    """Blocks of 0.4 MB from 112 MB: HDF5 keeps 8 MiB of chunks for each array, where it kept 32."""
    block = sparse.csr_matrix(np.ones((7000, 100), np.float32))
    with whole_h5ad(tmp_path / "filtered.h5ad") as new:
        writer = new.csr("X", 100, 20 * block.nnz)
        for _ in range(20):
            writer.append(block)
        n = writer.finish()
        obs, var = (pd.DataFrame(index=np.arange(m).astype(str)) for m in (n, 100))
        write_sections(new.hdf5, {"obs": obs, "var": var, "uns": {PROVENANCE_KEY: {"fingerprint": "none"}}})
    assert printed(READ, tmp_path / "filtered.h5ad") < 40
