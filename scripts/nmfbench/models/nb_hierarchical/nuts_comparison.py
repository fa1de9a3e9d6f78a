"""The fit against the No-U-Turn sampler on a small panel, on what the data identify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nmfbench.models.held_out_entries import values_at
from nmfbench.models.nb_hierarchical.means import Means
from nmfbench.models.nb_hierarchical.nuts import Sampled, sample
from nmfbench.models.nb_hierarchical.posterior import Posterior
from nmfbench.models.nb_hierarchical.preparation import Prepared

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    *("quantity", "name", "identified", "mean_vi", "sd_vi", "mean_nuts", "sd_nuts"),
    *("difference", "sd_ratio", "r_hat", "ess"),
)
SUMMARY_COLUMNS = (
    *(
        "quantity",
        "n",
        "difference_median",
        "difference_max",
        "sd_ratio_median",
        "sd_ratio_5%",
        "sd_ratio_95%",
    ),
    *("held_out_vi", "held_out_nuts", "r_hat_max", "ess_min", "divergences", "status"),
)
MOST_R_HAT, LEAST_ESS = 1.01, 400


def compare(posterior: Posterior, sampled: Sampled, genes: list[str], cells: list[str]) -> pd.DataFrame:
    """One row for each quantity, with columns :data:`COLUMNS`.

    ``difference`` is ``|mean_vi - mean_nuts| / sd_nuts``. Means of genes and cells by themselves are not
    identified, in the non-centred form the sds of an axis neither, unless they were found by quadrature:
    they are listed and not scored.
    """
    import pandas as pd
    from pyro.ops.stats import effective_sample_size, split_gelman_rubin

    found = posterior.effects()
    family = posterior.family
    rows = []
    sides = [("gene_total", genes, found.gene_total), ("cell_centred", cells, found.cell_centred)]
    sides.append(("log_alpha", [""] if family.shared else genes, found.log_alpha))
    for name, (mean, sd, *_) in posterior.globals().items():
        if name != "alpha":
            sides.append((name, [""], (np.array([mean]), np.array([sd]))))
    for quantity, names, (mean, sd) in sides:
        draws = sampled.draws[quantity]
        draws = draws[..., None] if draws.ndim == 2 else draws
        theirs, spread = draws.mean((0, 1)), draws.std((0, 1), ddof=1)
        there = torch.from_numpy(draws)
        axis = quantity.removeprefix("sigma_")
        scored = not quantity.startswith(("mu_", "sigma_")) or (
            quantity.startswith("sigma_") and (family.forms.get(axis, True) or axis in posterior.refined)
        )
        rows.append(
            pd.DataFrame(
                {"quantity": quantity, "name": names, "identified": scored, "mean_vi": mean, "sd_vi": sd}
                | {"mean_nuts": theirs, "sd_nuts": spread, "difference": np.abs(mean - theirs) / spread}
                | {"sd_ratio": sd / spread, "r_hat": split_gelman_rubin(there, 0, 1).numpy()}
                | {"ess": effective_sample_size(there, 0, 1).numpy()}
            )
        )
    return pd.concat(rows, ignore_index=True)[list(COLUMNS)]


def held_out(posterior: Posterior, sampled: Sampled, ready: Prepared, seed: int) -> tuple[float, float]:
    """Mean log predictive density of the held-out entries, of the fit and of NUTS, from 400 draws each."""
    rows, genes, y = values_at(ready.whole, ready.mask)
    size = ready.size[ready.cells]
    group = np.zeros(len(size), dtype=np.int64)
    p = len(ready.genes)

    def predictive(draws) -> float:
        total, k = None, 0
        for a, b, log_alpha in draws:
            log_alpha = np.broadcast_to(log_alpha, p)
            value = Means(b + size, (a + ready.length - log_alpha)[None], log_alpha, group).log_density(
                y, rows, genes
            )
            total, k = (value if total is None else np.logaddexp(total, value)), k + 1
        return float((total - np.log(k)).mean())

    def of_fit():
        for block in posterior.draws(400, seed):
            yield from zip(block["gene"], block["cell"], block["log_alpha"], strict=True)

    def of_nuts():
        flat = {
            key: sampled.draws[key].reshape(-1, sampled.draws[key].shape[-1])
            for key in ("gene_total", "cell_centred")
        }
        log_alpha = sampled.draws["log_alpha"].reshape(len(flat["gene_total"]), -1)
        for k in np.linspace(0, len(log_alpha) - 1, 400).astype(int):
            yield flat["gene_total"][k], flat["cell_centred"][k], log_alpha[k]

    return predictive(of_fit()), predictive(of_nuts())


def summarise(table: pd.DataFrame, divergences: int, scores: tuple[float, float]) -> pd.DataFrame:
    """One row for each identified quantity, with columns :data:`SUMMARY_COLUMNS`.

    ``status`` is ``unreliable`` where NUTS itself has not settled: an R-hat above 1.01, an
    effective sample size below 400, or a divergence.
    """
    import pandas as pd

    scored = table[table["identified"]]
    worst, least = float(scored["r_hat"].max()), float(scored["ess"].min())
    reliable = worst < MOST_R_HAT and least > LEAST_ESS and not divergences
    rows = [
        {"quantity": quantity, "n": len(part)}
        | {"difference_median": part["difference"].median(), "difference_max": part["difference"].max()}
        | {"sd_ratio_median": part["sd_ratio"].median()}
        | {"sd_ratio_5%": part["sd_ratio"].quantile(0.05), "sd_ratio_95%": part["sd_ratio"].quantile(0.95)}
        | {"held_out_vi": scores[0], "held_out_nuts": scores[1], "r_hat_max": worst, "ess_min": least}
        | {"divergences": divergences, "status": "ok" if reliable else "unreliable"}
        for quantity, part in scored.groupby("quantity", sort=False)
    ]
    return pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))


def write_nuts(path: str | Path, sampled: Sampled, model: Any) -> None:
    """Write the draws of all chains for ArviZ."""
    from nmfbench.models.nb_hierarchical.netcdf import whole_netcdf

    genes, cells = panel_names(model)
    chains, draws = sampled.draws["gene_total"].shape[:2]
    with whole_netcdf(path) as file:
        coordinates = {"chain": np.arange(chains), "draw": np.arange(draws), "gene": genes, "cell": cells}
        file.group("posterior", coordinates)
        for name, values in sampled.draws.items():
            over = {"gene_total": ("gene",), "cell_effect": ("cell",), "cell_centred": ("cell",)}.get(
                name, ()
            )
            if name == "log_alpha":
                over, values = (("gene",), values) if values.shape[-1] > 1 else ((), values[..., 0])
            file.variable("posterior", name, ("chain", "draw", *over), np.float64)[...] = values
        file.attributes({"inference_library": "pyro", "divergences": sampled.divergences, **model.said_()})


def compare_with_nuts(
    csr: Any,
    settings: dict[str, Any],
    nuts: dict[str, int],
    seed: int,
    *,
    obs: Any = None,
    var: Any = None,
    cell_names: Any = None,
    gene_names: Any = None,
) -> tuple[pd.DataFrame, pd.DataFrame, Sampled, Any]:
    """Fit a panel by the exact engine and by NUTS, a tenth of its entries held out of both.

    Parameters
    ----------
    csr : csr of shape (cells, genes)
    settings : dict
        The estimator's parameters. Covariates are left out.
    nuts : dict
        ``cells``, ``genes``, ``chains``, ``warmup`` and ``draws``.
    seed : int
    obs, var, cell_names, gene_names
        As of the estimator's ``fit``.

    Returns
    -------
    table, summary : DataFrame
        Columns :data:`COLUMNS` and :data:`SUMMARY_COLUMNS`.
    sampled : Sampled
    model : NBHierarchical
        The fit of the panel.
    """
    from nmfbench.models.nb_hierarchical.estimator import NBHierarchical
    from nmfbench.models.nb_hierarchical.preparation import prepare

    changed = {
        "engine": "exact",
        "start": "informed",
        "stop": "elbo",
        "learning_rate": 0.05,
        "max_iter": 3000,
    }
    changed |= {"n_cells": nuts["cells"], "n_genes": nuts["genes"], "mask_fraction": 0.1, "covariates": None}
    changed |= {"held_out_fraction": 0.0, "tol": 1e-6, "optimizer": "adam"}
    model = NBHierarchical(2, **(settings | changed), random_state=seed, device="cpu")
    told = {"obs": obs, "var": var, "cell_names": cell_names, "gene_names": gene_names}
    model.fit(csr, **told, progress=False)
    ready = prepare(csr, model.settings_, seed, **told)
    posterior = model.posterior_
    sampled = sample(
        posterior.family,
        ready,
        posterior.loc,
        seed=seed,
        **{key: nuts[key] for key in ("chains", "warmup", "draws")},
    )
    table = compare(posterior, sampled, *panel_names(model))
    summary = summarise(table, sampled.divergences, held_out(posterior, sampled, ready, seed))
    return table, summary, sampled, model


def panel_names(model: Any) -> tuple[list[str], list[str]]:
    """Names of the fitted genes and cells."""
    genes, cells = model.names_
    return [genes[k] for k in model.genes_], [cells[k] for k in model.cells_]
