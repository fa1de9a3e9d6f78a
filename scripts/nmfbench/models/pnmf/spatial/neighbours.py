"""Which points a point is conditioned on."""

from __future__ import annotations

import numpy as np
import torch

from nmfbench.models.pnmf.spatial.kernels import Matern32, Points

NEIGHBOURS = ("knn", "probabilistic")
_BLOCK = 1024


def find_neighbours(
    kernel: Matern32,
    points: Points,
    k: int,
    *,
    of: Points | None = None,
    rows: torch.Tensor | None = None,
    rule: str = "knn",
    rng: np.random.Generator | None = None,
) -> torch.Tensor:
    """The k points that each of the points `of` is conditioned on.

    Parameters
    ----------
    kernel : Matern32
    points : Points
        Where neighbours are taken from.
    k : int
    of : Points or None
        Whose neighbours; None: those of `points`, each without itself (also where two lie at one place).
    rows : LongTensor or None
        Where `of` is None: the neighbours of these alone.
    rule : {"knn", "probabilistic"}
        ``knn``: the k with the largest covariance. The covariance falls with the distance within a group and
        between two groups alike, so they are found among the k nearest of every group. ``probabilistic``:
        k drawn without replacement, with chances in proportion to the covariance.
    rng : Generator or None
        For the draws.

    Returns
    -------
    LongTensor of shape (n, k)
        In descending order of the covariance.
    """
    itself = None
    if of is None:
        itself = torch.arange(len(points), device=points.xy.device) if rows is None else rows
    asked = points[itself] if of is None else of
    if rule == "probabilistic":
        return _drawn(kernel, points, k, asked, itself, rng)
    from sklearn.neighbors import NearestNeighbors

    xy, targets = points.xy.cpu().numpy(), asked.xy.cpu().numpy()
    grouped = kernel.group_diff_param is not None and points.groups is not None
    groups = points.groups.cpu().numpy() if grouped else np.zeros(len(xy), dtype=np.int64)
    candidates = []
    for g in np.unique(groups):
        members = np.flatnonzero(groups == g)
        wanted = min(k + (of is None), len(members))
        found = (
            NearestNeighbors(n_neighbors=wanted).fit(xy[members]).kneighbors(targets, return_distance=False)
        )
        candidates.append(members[found])
    table = torch.from_numpy(np.concatenate(candidates, axis=1)).to(points.xy.device)
    chosen = torch.empty((len(asked), k), dtype=torch.long, device=table.device)
    for start in range(0, len(asked), _BLOCK):
        part = slice(start, start + _BLOCK)
        near, mine = table[part], asked[part]
        alone = Points(mine.xy[:, None], None if mine.groups is None else mine.groups[:, None])
        with torch.no_grad():
            covariance = kernel(alone, points[near])[:, 0]
        if itself is not None:
            covariance = covariance.masked_fill(near == itself[part, None], -torch.inf)
        chosen[part] = near.gather(1, covariance.topk(k, dim=1).indices)
    return chosen


def _drawn(kernel: Matern32, points: Points, k: int, asked: Points, itself, rng) -> torch.Tensor:
    """Without replacement by the k largest of ln weight + Gumbel noise (Efraimidis & Spirakis 2006)."""
    chosen = torch.empty((len(asked), k), dtype=torch.long, device=points.xy.device)
    for start in range(0, len(asked), _BLOCK):
        part = slice(start, start + _BLOCK)
        with torch.no_grad():
            covariance = kernel(asked[part], points).clamp_(min=1e-300)  # far points can be drawn still
        if itself is not None:
            covariance.scatter_(1, itself[part, None], 0.0)
        noise = torch.from_numpy(rng.gumbel(size=tuple(covariance.shape))).to(covariance.device)
        drawn = (covariance.log() + noise).topk(k, dim=1).indices
        order = covariance.gather(1, drawn).argsort(dim=1, descending=True)
        chosen[part] = drawn.gather(1, order)
    return chosen
