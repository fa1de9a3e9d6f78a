"""A simulated screen whose responses are a bilinear form of known vectors of the genes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

CONTROL = "non-targeting"
CONTROL_SHARE = 0.2


@dataclass(frozen=True)
class SimulatedScreen:
    """A screen and its truth.

    Attributes
    ----------
    counts : csr_matrix of shape (cells, genes)
    target, batch, phase : ndarray of shape (cells,)
    genes : list of str
    vectors : ndarray of shape (genes, width)
        Rows of length 1.
    change : dict of str to ndarray of shape (genes,)
        True log fold changes.
    log_mean : ndarray of shape (genes,)
        Of a control cell of size factor 1.
    """

    counts: sparse.csr_matrix
    target: np.ndarray
    batch: np.ndarray
    phase: np.ndarray
    genes: list[str]
    vectors: np.ndarray
    change: dict[str, np.ndarray]
    log_mean: np.ndarray


def simulate(design: Mapping[str, Any]) -> SimulatedScreen:
    """Simulate a screen.

    Parameters
    ----------
    design : mapping
        The section ``simulate_screen`` (:class:`nmfbench.config.perturbation.SimulatedScreen`).

    Notes
    -----
    ``log mu = log mu_0 + b + G K g_target + knock_down [gene is the target]`` with rows of G on the sphere, K
    and b normal. Among control cells the same vectors vary (``covariation``), so that their principal
    components say something of G.
    """
    rng = np.random.default_rng(np.random.SeedSequence([design["seed"], 77]))
    p, width, n_targets = design["n_genes"], design["width"], design["n_targets"]
    genes = [f"GENE{number}" for number in range(p)]
    G = rng.standard_normal((p, width))
    G /= np.linalg.norm(G, axis=1, keepdims=True)
    log_mean = rng.normal(0.0, 1.3, p)
    log_mean += np.log(design["mean_counts"] / np.exp(log_mean).sum())
    # targets are among the genes that are seen
    chosen = rng.choice(np.argsort(-log_mean)[: max(p // 2, n_targets)], n_targets, replace=False)
    K = rng.standard_normal((width, width)) * design["effect"] * np.sqrt(width)
    K /= np.sqrt(width)
    shared = rng.normal(0.0, design["shared_effect"], p)
    change = {}
    for gene in chosen:
        change[genes[gene]] = shared + G @ K @ G[gene]
        change[genes[gene]][gene] += design["knock_down"]
    names = list(change)
    for number in range(design["doubles"]):
        one, other = names[number % n_targets], names[(number * 3 + 1) % n_targets]
        if one != other:
            change[f"{one}+{other}"] = change[one] + change[other] - shared
    labels = [CONTROL, *change]
    n_control = round(CONTROL_SHARE * design["n_cells"])
    others = np.array_split(np.arange(design["n_cells"] - n_control), len(change))
    sizes = [n_control, *(len(part) for part in others)]
    target = np.repeat(labels, sizes)
    n = len(target)
    s = np.exp(rng.normal(0.0, design["library_spread"], n))
    effects = np.stack([np.zeros(p), *change.values()])
    scores = rng.normal(0.0, design["covariation"], (n, width))
    rows = np.repeat(np.arange(len(labels)), sizes)
    parts = []
    for start in range(0, n, 1024):
        part = slice(start, start + 1024)
        eta = log_mean + effects[rows[part]] + scores[part] @ G.T
        mu = np.exp(eta) * s[part, None]
        mu *= rng.standard_gamma(design["theta"], mu.shape) / design["theta"]
        parts.append(sparse.csr_matrix(rng.poisson(mu).astype(np.float32)))
    return SimulatedScreen(
        counts=sparse.vstack(parts, format="csr"),
        target=target,
        batch=np.array([f"batch_{number}" for number in rng.integers(0, design["n_batches"], n)]),
        phase=rng.choice(["G1", "S", "G2M"], n, p=[0.6, 0.25, 0.15]),
        genes=genes,
        vectors=G,
        change=change,
        log_mean=log_mean,
    )


def write_screen(design: Mapping[str, Any], path: str | Path) -> None:
    """Write a simulated screen as an .h5ad, and its vectors as ``vectors.csv`` beside it."""
    import anndata
    import pandas as pd

    from nmfbench.tables.files import write_table

    screen = simulate(design)
    n = len(screen.target)
    obs = pd.DataFrame(
        {
            "target_gene": pd.Categorical(screen.target),
            "guide_id": pd.Categorical([f"{name}_g{row % 2}" for row, name in enumerate(screen.target)]),
            "batch": pd.Categorical(screen.batch),
            "phase": pd.Categorical(screen.phase),
        },
        index=[f"cell-{row}" for row in range(n)],
    )
    var = pd.DataFrame(index=pd.Index(screen.genes))
    place = Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f".{place.name}.part")
    anndata.AnnData(X=screen.counts, obs=obs, var=var).write_h5ad(temporary)
    temporary.replace(place)
    columns = [f"v{number}" for number in range(screen.vectors.shape[1])]
    table = pd.DataFrame(screen.vectors, columns=columns)
    table.insert(0, "gene", screen.genes)
    write_table(table, place.with_name("vectors.csv"))
