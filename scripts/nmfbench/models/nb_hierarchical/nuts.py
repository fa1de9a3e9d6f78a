"""The No-U-Turn sampler on the joint density of a small panel.

NUTS samples ``a + mean b`` in place of a: what a can give b then costs nothing to move along (15 leapfrog
steps an iteration in place of a thousand).
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass

import numpy as np
import torch

from nmfbench.models.nb_hierarchical.family import Family
from nmfbench.models.nb_hierarchical.potential import Potential
from nmfbench.models.nb_hierarchical.preparation import Prepared

log = logging.getLogger(__name__)


@dataclass
class Sampled:
    """Draws of all chains.

    Attributes
    ----------
    draws : dict of str to ndarray of shape (chains, draws) or (chains, draws, n)
        Globals by name, ``gene_total``, ``cell_centred``, ``log_alpha``, ``cell_effect``.
    divergences : int
    """

    draws: dict[str, np.ndarray]
    divergences: int


def sample(
    family: Family, ready: Prepared, start: np.ndarray, *, chains: int, warmup: int, draws: int, seed: int
) -> Sampled:
    """Run NUTS from dispersed starts.

    Parameters
    ----------
    family : Family
    ready : Prepared
    start : ndarray of shape (size,)
        Middle of the starts, in the family's coordinates.
    chains, warmup, draws, seed : int
    """
    import pyro
    from pyro.infer.mcmc import MCMC, NUTS

    potential = Potential(family, ready)
    middle = torch.from_numpy(start.copy())
    if family.forms["gene"]:
        place = family.places["gene"]
        middle[place] = middle[place] + family.unfolded(middle)[1].mean()
    found, divergences = [], 0
    for chain in range(chains):
        number = int(np.random.SeedSequence([seed, 9, chain]).generate_state(1)[0])
        pyro.set_rng_seed(number)
        first = middle + 0.1 * torch.randn(len(middle), dtype=torch.float64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kernel = NUTS(potential_fn=lambda x: potential(x["x"]), target_accept_prob=0.9, max_tree_depth=10)
            run = MCMC(
                kernel,
                num_samples=draws,
                warmup_steps=warmup,
                initial_params={"x": first},
                disable_progbar=True,
            )
            run.run()
        found.append(run.get_samples()["x"])
        divergences += sum(len(places) for places in run.diagnostics()["divergences"].values())
        log.info("NUTS: chain %d of %d is done", chain + 1, chains)
    x = torch.stack(found)
    drawn: dict[str, list] = {key: [] for key in ("gene_total", "cell_effect", "cell_centred", "log_alpha")}
    for chain in x:
        parts = [potential.effects(row) for row in chain]
        b = torch.stack([part[1] for part in parts])
        drawn["gene_total"].append(torch.stack([part[0] for part in parts]))
        drawn["cell_effect"].append(b)
        drawn["cell_centred"].append(b - b.mean(1, keepdim=True))
        drawn["log_alpha"].append(torch.stack([part[2] for part in parts]))
    draws_of = {key: torch.stack(values).numpy() for key, values in drawn.items()}
    for k, name in enumerate(family.globals):
        values = x[..., k].numpy()
        draws_of[name.removeprefix("log_")] = np.exp(values) if name.startswith("log_") else values
    return Sampled(draws_of, divergences)
