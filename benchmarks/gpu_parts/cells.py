"""Simulated cells, drawn on the device that is measured: a mixture of programs for each of some types."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch

N_TYPES, N_PROGRAMS, N_DONORS = 25, 40, 16


@dataclass(frozen=True)
class Cells:
    """Counts, what is trained on (10,000 counts a cell, log1p), and the cells' labels."""

    counts: sp.csr_matrix
    values: sp.csr_matrix
    types: np.ndarray
    donors: np.ndarray


def simulate(n: int, p: int, draws: int, device: torch.device, seed: int = 0) -> Cells:
    """Cells of so many counts each; genes of a cell are drawn from its type's mixture of programs.

    Parameters
    ----------
    n, p, draws : int
        Cells, genes, counts a cell; genes that are drawn twice make the nonzeros fewer.
    device : torch.device
    seed : int
    """
    rng = np.random.default_rng(seed)
    base = rng.gamma(0.3, 1.0, p) + 1e-4
    programs = base * np.where(rng.random((N_PROGRAMS, p)) < 0.03, rng.gamma(2.0, 10.0, (N_PROGRAMS, p)), 1.0)
    programs /= programs.sum(axis=1, keepdims=True)
    ways = np.cumsum(rng.dirichlet(np.full(N_PROGRAMS, 0.08), N_TYPES) @ programs, axis=1)
    ways = torch.from_numpy((ways / ways[:, -1:]).astype(np.float32)).to(device)
    types, donors = rng.integers(0, N_TYPES, n), rng.integers(0, N_DONORS, n)
    generator = torch.Generator(device=device).manual_seed(seed)
    indptr, indices, data = np.zeros(n + 1, np.int64), [], []
    for start in range(0, n, 8192):
        of = torch.from_numpy(types[start : start + 8192]).to(device)
        drawn = torch.rand((len(of), draws), generator=generator, device=device)
        genes = torch.empty(drawn.shape, dtype=torch.int64, device=device)
        for t in range(N_TYPES):
            genes[of == t] = torch.searchsorted(ways[t], drawn[of == t], right=True)
        genes.clamp_(max=p - 1).add_(torch.arange(len(of), device=device)[:, None] * p)
        places, counts = torch.unique(genes.reshape(-1), return_counts=True)
        of_cell = torch.bincount(places // p, minlength=len(of)).cpu().numpy()
        indptr[start + 1 : start + 1 + len(of)] = of_cell
        indices.append((places % p).to(torch.int32).cpu().numpy())
        data.append(counts.to(torch.float32).cpu().numpy())
    np.cumsum(indptr, out=indptr)
    kind = np.int32 if indptr[-1] < 2**31 else np.int64
    parts = np.concatenate(data), np.concatenate(indices), indptr.astype(kind)
    counts = sp.csr_matrix(parts, shape=(n, p))
    depth = np.repeat(np.add.reduceat(parts[0], indptr[:-1]), np.diff(indptr))
    values = sp.csr_matrix((np.log1p(parts[0] * (1e4 / depth)), *parts[1:]), shape=(n, p))
    return Cells(counts, values.astype(np.float32), types.astype(str), donors.astype(str))


def cells_of(bench, n: int, p: int, draws: int) -> Cells:
    """The same cells for every part that asks for this size; a size of toys where the bench is small."""
    size = (600, 90, 20) if bench.small else (n, p, draws)
    key = f"cells {size}"
    if key not in bench.kept:
        for other in [name for name in bench.kept if name.startswith("cells ")]:
            del bench.kept[other]  # one size in memory at a time
        bench.kept[key] = simulate(*size, bench.device)
    return bench.kept[key]
