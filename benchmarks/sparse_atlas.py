"""Simulated atlases drawn transcript by transcript: large ones in minutes, in blocks of cells.

The counts have the distribution of ``nmfbench.data.simulate`` (Poisson): given its total, a cell's counts are
a multinomial draw from a mixture of profiles, so each transcript picks a profile and then a gene, by Walker's
alias method (1977, doi:10.1145/355744.355749). The cost goes with the transcripts, not with cells x genes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numba
import numpy as np
from scipy import sparse

from nmfbench.data.simulate import Atlas, AtlasDesign
from nmfbench.data.writer import whole_h5ad, write_sections

BLOCK_CELLS = 4096


@numba.njit(cache=True)
def _alias_table(shares):
    """Walker's tables of one profile: the share that a gene keeps of its slot, and who has the rest."""
    p = len(shares)
    keep, other = shares * p / shares.sum(), np.arange(p).astype(np.int32)
    small, large = np.empty(p, np.int64), np.empty(p, np.int64)
    n_small = n_large = 0
    for g in range(p):
        if keep[g] < 1:
            small[n_small] = g
            n_small += 1
        else:
            large[n_large] = g
            n_large += 1
    while n_small and n_large:
        n_small -= 1
        s, l = small[n_small], large[n_large - 1]
        other[s] = l
        keep[l] -= 1 - keep[s]
        if keep[l] < 1:
            n_large -= 1
            small[n_small] = l
            n_small += 1
    for i in range(n_large):
        keep[large[i]] = 1
    for i in range(n_small):
        keep[small[i]] = 1
    return keep.astype(np.float32), other


@numba.njit(cache=True)
def _draw(rng, transcripts, tables, keep, other, indptr, indices, data):
    """Fill a CSR block; `transcripts` is cells x parts, `tables` says which table each part has."""
    p = keep.shape[1]
    counts = np.zeros(p, np.int32)
    end = 0
    for i in range(transcripts.shape[0]):
        for part in range(transcripts.shape[1]):
            t = tables[i, part]
            for _ in range(transcripts[i, part]):
                u = rng.random() * p
                g = int(u)
                counts[g if u - g < keep[t, g] else other[t, g]] += 1
        for g in range(p):
            if counts[g]:
                indices[end] = g
                data[end] = counts[g]
                counts[g] = 0
                end += 1
        indptr[i + 1] = end
    return end


def blocks(atlas: Atlas) -> Iterator[sparse.csr_matrix]:
    """Raw counts in blocks of cells, float32."""
    design, n_programs = atlas.design, len(atlas.programs)
    profiles = [atlas.base, *atlas.donor_programs.reshape(-1, design.n_genes), *atlas.ambient_profiles]
    tables = [_alias_table(np.asarray(profile, np.float64)) for profile in profiles]
    keep, other = (np.stack(parts) for parts in zip(*tables, strict=True))
    first_ambient = 1 + design.all_donors * n_programs
    h, spread = atlas.shared_weight, asdict(design)["library_spread"]
    for number, start in enumerate(range(0, design.n_cells, BLOCK_CELLS)):
        rng = np.random.default_rng([design.seed, 1, number])
        cells = slice(start, start + BLOCK_CELLS)
        types, donors = atlas.types[cells], atlas.donors[cells]
        theta = rng.standard_gamma(8 * atlas.usage[types] + 0.01) * atlas.donor_usage[donors]
        theta /= theta.sum(axis=1, keepdims=True)
        ambient = atlas.ambient_share[donors][:, None]
        mixture = np.hstack([(1 - ambient) * h, (1 - ambient) * (1 - h) * theta, ambient])
        size = design.mean_counts * rng.lognormal(-(spread**2) / 2, spread, (len(types), 1))
        transcripts = rng.poisson(size * mixture)
        own = 1 + donors[:, None] * n_programs + np.arange(n_programs)
        which = np.column_stack([np.zeros_like(donors), own, first_ambient + donors])
        most = int(np.minimum(transcripts.sum(axis=1), design.n_genes).sum())
        indptr = np.zeros(len(types) + 1, np.int64)
        indices, data = np.empty(most, np.int32), np.empty(most, np.float32)
        end = _draw(rng, transcripts, which, keep, other, indptr, indices, data)
        yield sparse.csr_matrix((data[:end], indices[:end], indptr), (len(types), design.n_genes))


def write_atlas(path: str | Path, **design) -> int:
    """Write an .h5ad of raw counts in X; returns the nonzeros.

    Parameters
    ----------
    path : path
    **design
        Of :class:`nmfbench.data.simulate.AtlasDesign`.
    """
    import pandas as pd

    atlas = Atlas(AtlasDesign(**design))
    n_cells, n_genes = atlas.design.n_cells, atlas.design.n_genes
    with whole_h5ad(path) as file:
        most = int(n_cells * min(n_genes, 2 * atlas.design.mean_counts + 100))
        counts = file.csr("X", n_genes, most)
        for block in blocks(atlas):
            counts.append(block)
        counts.finish()
        var = pd.DataFrame(index=[f"ENSG{90_000_000_000 + number}" for number in range(n_genes)])
        write_sections(file.hdf5, {"obs": atlas.obs(), "var": var})
    return counts.nnz
