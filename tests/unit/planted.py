"""Counts with known programs, for the tests of factors: each has genes of its own, one is a donor's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

import data_files
from nmfbench.data import filter_donors
from nmfbench.results import write_result


@dataclass(frozen=True)
class Planted:
    """Counts of `n` cells; program j leads genes 10 j to 10 j + 9.

    Each cell type uses a program of its own; the last program is that of donor D0 alone, in every type.
    """

    counts: np.ndarray
    usage: np.ndarray
    programs: np.ndarray
    obs: pd.DataFrame
    var: pd.DataFrame

    @classmethod
    def draw(
        cls, n_types: int = 4, n_donors: int = 4, n_cells: int = 480, seed: int = 0, depth: int = 600,
        n_more_genes: int = 30,
    ) -> Planted:  # fmt: skip
        rng = np.random.default_rng(seed)
        k = n_types + 1
        p = 10 * k + n_more_genes
        programs = np.full((k, p), 0.2)
        for j in range(k):
            programs[j, 10 * j : 10 * j + 10] = 6.0
        programs *= rng.gamma(20, 1 / 20, programs.shape)
        programs /= programs.sum(axis=1, keepdims=True)
        types, donors = rng.integers(n_types, size=n_cells), rng.integers(n_donors, size=n_cells)
        usage = rng.gamma(0.3, 0.2, (n_cells, k))
        usage[np.arange(n_cells), types] += rng.gamma(8, 1 / 8, n_cells)
        usage[:, -1] = (donors == 0) * rng.gamma(8, 0.6 / 8, n_cells)
        usage /= usage.sum(axis=1, keepdims=True)
        counts = rng.poisson(depth * usage @ programs).astype(np.float32)
        names = {"cell_type": [f"type {t}" for t in types], "donor_id": [f"D{d}" for d in donors]}
        obs = pd.DataFrame(names, index=[f"cell{i}" for i in range(n_cells)]).astype("category")
        return cls(counts, usage, programs, obs, data_files.make_var(p))

    def filtered(self, folder: Path) -> Path:
        """Write source.h5ad and filtered.h5ad."""
        source = data_files.write(
            folder / "source.h5ad", sparse.csr_matrix(self.counts), obs=self.obs, var=self.var
        )
        filter_donors(source, folder / "filtered.h5ad", folder / "donors.tsv", min_cells_per_donor=1)
        return folder / "filtered.h5ad"

    def result(self, path: Path, H: np.ndarray | None = None, W: np.ndarray | None = None, **record) -> Path:
        """Write a result with these factors; by default the planted ones."""
        H = (self.usage if H is None else H).astype(np.float32)
        W = (self.programs.T if W is None else W).astype(np.float32)
        k = H.shape[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        names = {"model": "planted", "display_name": "Planted", "rank": k, "seed": 0, "uses_labels": ""}
        write_result(
            path,
            obs=self.obs,
            var=self.var,
            obsm={f"H_k{k}": H},
            varm={f"W_k{k}": W},
            uns={"model_name": "planted"},
            record={**names, "embedding": f"H_k{k}", **record},
        )
        return path
