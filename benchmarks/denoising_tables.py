"""What benchmarks/denoising.py prints and draws of its tables."""

from __future__ import annotations

import numpy as np
import pandas as pd

SHOWN = ("F1", "NMI", "ARI", "donor_F1", "donor_NMI", "one_gene", "cpu_s", "unseen_error")


def figure(path: str, rows: pd.DataFrame) -> None:
    """Share of one-gene factors and scores against the sweeps, a line for each model."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = {"one_gene": "factors that are one gene", "F1": "cell types: F1 of 15 neighbours", "NMI": "NMI"}
    colours = {"ae_nmf": "#E69F00", "ae_nmf_common": "#E500E5"}
    drawn, axes = plt.subplots(1, 3, figsize=(9, 2.8), layout="constrained")
    for axis, (column, title) in zip(axes, shown.items(), strict=True):
        for model, part in rows.groupby("model"):
            axis.plot(part["sweeps"] + 1, part[column], "o-", color=colours[model], label=model)
        axis.set(xscale="log", xlabel="sweeps + 1", title=title, ylim=(0, 1))
    axes[0].legend(frameon=False)
    drawn.savefig(path, dpi=150)


def table(paths: list[str]) -> str:
    """Means over the seeds with half-widths of 95 % intervals, as Markdown."""
    from scipy.stats import t

    rows = pd.concat([pd.read_csv(path, sep="\t") for path in paths])
    keys = ["data", "model", "rank", "scaling"]
    values = [name for name in SHOWN if name in rows.columns]

    def said(column: pd.Series) -> str:
        n = column.count()
        half = t.ppf(0.975, n - 1) * column.std() / np.sqrt(n) if n > 1 else np.nan
        mean = "" if np.isnan(column.mean()) else f"{column.mean():.3f}".removeprefix("0")
        return mean + (f" ± {half:.3f}".replace("± 0", "± ") if n > 1 else "")

    found = rows.groupby(keys, sort=False)[values].agg(said).reset_index()
    found.insert(4, "seeds", rows.groupby(keys, sort=False)["seed"].count().to_numpy())
    lines = [list(found.columns), ["---"] * len(found.columns), *found.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def rank_by_unseen(paths: list[str], tolerance: float = 0.002) -> str:
    """The smallest rank whose error of unseen molecules, a mean over seeds, is near the least; as text."""
    rows = pd.concat([pd.read_csv(path, sep="\t") for path in paths])
    found = []
    for key, part in rows.groupby(["data", "model", "scaling"], sort=False):
        error = part.groupby("rank")["unseen_error"].mean()
        rank = error.index[error <= (1 + tolerance) * error.min()].min()
        found.append(f"{' '.join(key)}: rank {rank} (least error at {error.idxmin()}, {error.min():.4f})")
    return "\n".join(found)
