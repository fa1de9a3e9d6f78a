"""The random numbers of a fit: each step's are decided by the seed and the step alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch


def generator(seed: int, *stream: int, device: str | torch.device = "cpu") -> torch.Generator:
    """A private generator for one stream of a seed (a step, a purpose)."""
    state = int(np.random.SeedSequence([seed, *stream]).generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator(device=device).manual_seed(state)


def noise(
    shape: tuple[int, ...],
    n_draws: int,
    seed: int,
    *stream: int,
    dtype: torch.dtype,
    device: str | torch.device = "cpu",
) -> Iterator[torch.Tensor]:
    """``ε ~ Normal(0, I)`` in pairs ``ε, -ε``, the last of an odd number alone; one at a time.

    The mean of a pair is exactly zero, so that what is linear in ε adds no noise to an average.
    """
    source = generator(seed, *stream, device=device)
    for i in range((n_draws + 1) // 2):
        draw = torch.randn(shape, generator=source, dtype=dtype, device=device)
        yield draw
        if 2 * i + 1 < n_draws:
            yield draw.neg_()
