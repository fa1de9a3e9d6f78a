"""Split counts told the donors (model 1), which is no registered model: docs/denoising.md says why.

    python benchmarks/denoising_conditional.py a.h5ad --rank 20 --scaling sqrt --seeds 2

Beside it `cae_nmf1_common` with the same weights; the protocol is that of benchmarks/denoising.py.
"""

from __future__ import annotations

import argparse

import numpy as np
from denoising import RIDGE, Cells, descend, gene_factors, operator_for, scaled, score

from nmfbench.data import normalise_block
from nmfbench.data.halves import mean_and_difference
from nmfbench.models import CAENMF1Common
from nmfbench.models.autoencoder.exact import TiedObjective, minimise, sums_of_blocks
from nmfbench.models.autoencoder.exact.denoising import unique_squares
from nmfbench.models.denoising.card import AdditiveCommonNMF
from nmfbench.models.denoising.conditional import clusters_of


def split_told_the_donors(cells: Cells, X, factors, rank: int, seed: int, weight: float) -> np.ndarray:
    """Embedding of all counts, by loadings of split counts with a profile for each donor.

    As `cae_nmf1_common`: clusters of the fit that is not told the donors, where the descent begins.
    """
    section = AdditiveCommonNMF()
    operator = operator_for("ae_nmf_split", cells.counts, X, factors, seed)
    W = descend("ae_nmf_split", operator, rank, seed).W
    clusters = clusters_of(X @ W.T, section.n_clusters, seed)
    mean = scaled(mean_and_difference(cells.counts, 0, seed)[0], factors)
    donors = np.unique(cells.donors, return_inverse=True)[1]
    objective = TiedObjective(
        operator,
        W,
        penalty_W=RIDGE,
        conditions=sums_of_blocks(mean, donors, clusters),
        penalty_U=section.penalty_U,
        penalty_invariance=weight,
        centred=True,
        split=True,
        unique=unique_squares(operator, min(section.n_axes, rank), seed=seed, halves=True),
    )
    return X @ minimise(objective).W.T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("h5ad")
    parser.add_argument("--n-top", type=int, default=2000)
    parser.add_argument("--rank", type=int, default=20)
    parser.add_argument("--scaling", default="sqrt")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 20.0, 100.0])
    options = parser.parse_args()
    cells = Cells(options.h5ad, options.n_top)
    X = normalise_block(cells.counts)
    factors = gene_factors(X, options.scaling)
    X = scaled(X, factors)
    for weight in options.weights:
        for seed in range(options.seeds):
            model = CAENMF1Common(options.rank, penalty_invariance=weight, random_state=seed)
            found = {
                "cae_nmf1_common": model.fit(X, conditions=cells.donors, progress=False).embedding_,
                "split, told": split_told_the_donors(cells, X, factors, options.rank, seed, weight),
            }
            for name, H in found.items():
                shown = ", ".join(
                    f"{key} {value:.3f}" for key, value in score(H, cells.types, cells.donors).items()
                )
                print(f"{name}, weight {weight:g}, seed {seed}: {shown}", flush=True)


if __name__ == "__main__":
    main()
