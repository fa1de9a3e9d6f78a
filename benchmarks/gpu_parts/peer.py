"""The dense peer: what anyone would write in torch in an afternoon, with autograd and `torch.optim.Adam`.

It knows nothing of this project: batches are made dense on the card, the loss is written down, `backward`
does the rest, and the loadings are clipped at zero.
"""

from __future__ import annotations

import time

import numpy as np
import torch

PENALTY = 1e-2


class DensePeer:
    """Projective NMF by dense batches.

    Parameters
    ----------
    X : csr_matrix of shape (cells, genes)
    k, batch_size : int
    device : torch.device
    seed : int
    """

    def __init__(self, X, k: int, batch_size: int, device: torch.device, seed: int = 0) -> None:
        self.n, self.p = X.shape
        self.batch_size, self.device = min(batch_size, self.n), device
        parts = (X.indptr.astype(np.int64), X.indices.astype(np.int64), X.data)
        self.indptr, self.indices, self.data = (torch.from_numpy(a).to(device) for a in parts)
        self.generator = torch.Generator().manual_seed(seed)
        self.W = (torch.rand(k, self.p, generator=self.generator) * 0.02).to(device).requires_grad_(True)
        self.adam = torch.optim.Adam([self.W], lr=1e-3)
        self.buffer = torch.zeros(self.batch_size, self.p, device=device)

    def step(self, rows: torch.Tensor) -> None:
        """One step on the cells `rows`."""
        first, last = self.indptr[rows], self.indptr[rows + 1]
        lengths = last - first
        before = torch.cumsum(lengths, 0) - lengths
        shift = torch.repeat_interleave(first - before, lengths)
        places = shift + torch.arange(len(shift), device=self.device)
        owner = torch.repeat_interleave(torch.arange(len(rows), device=self.device), lengths)
        self.buffer.zero_()
        self.buffer[owner, self.indices[places]] = self.data[places]
        X = self.buffer[: len(rows)]
        loss = ((X @ self.W.T) @ self.W - X).square().sum() / len(rows) + PENALTY * self.W.square().sum()
        self.adam.zero_grad(set_to_none=True)
        loss.backward()
        self.adam.step()
        with torch.no_grad():
            self.W.clamp_(min=0)

    def epoch(self) -> None:
        """A pass over all cells but those of a last, short batch."""
        order = torch.randperm(self.n, generator=self.generator).to(self.device)
        for start in range(0, self.n - self.batch_size + 1, self.batch_size):
            self.step(order[start : start + self.batch_size])

    def train(self, epochs: int, wait) -> float:
        """Seconds of so many epochs."""
        wait()
        began = time.perf_counter()
        for _ in range(epochs):
            self.epoch()
        wait()
        return time.perf_counter() - began


def relative_error(X, W: np.ndarray) -> float:
    """``||X - X WᵀW||² / ||X||²`` of loadings (k x genes), by the nonzeros, summed in double precision."""
    H = (X @ np.ascontiguousarray(W.T, dtype=X.dtype)).astype(np.float64)
    A, G = H.T @ H, (W.astype(np.float64) @ W.T.astype(np.float64))
    norm = float(np.einsum("i,i->", X.data, X.data, dtype=np.float64))
    return float((norm - 2 * np.trace(A) + np.sum(A * G)) / norm)
