"""A model fitted to counts without a tenth of their molecules, and asked about these."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nmfbench.errors import NotApplicable
from nmfbench.metrics.deviance import DevianceScore, score_deviance
from nmfbench.refits import Fits

if TYPE_CHECKING:
    from nmfbench.job import Job

log = logging.getLogger(__name__)

BLOCK = 1024  # cells whose expected counts are dense at a time

OWN_SHARES = {"held_out_fraction", "mask_fraction"}
"""Settings by which a model of counts sets some aside itself."""


def score_held_out_counts(
    filtered: str,
    *,
    kind: str,
    settings: Mapping[str, Any],
    rank: int,
    seed: int,
    device: str,
    normalisation: Mapping[str, Any],
    condition_columns: Sequence[str],
    fraction: float,
    thinning_seed: int,
    run: Job,
    scratch: str | Path,
    gene_scaling: str = "none",
) -> DevianceScore:
    """Thin the counts, fit the model to what is left, and score what it expects of the rest.

    Parameters
    ----------
    filtered : str
        The filtered counts.
    kind, settings, rank, seed, device, normalisation, condition_columns, gene_scaling
        As in :func:`nmfbench.train.train`; genes are scaled by the counts that are left.
    fraction, thinning_seed
        Share of the molecules set aside, and the seed of the draw: the same for all models.
    run : Job
    scratch : path
        Folder for the checkpoint; removed at the end.

    Returns
    -------
    DevianceScore

    Raises
    ------
    NotApplicable
        The model was made elsewhere, or does not say what it expects of a gene of a cell.
    """
    from nmfbench.data import AS_COUNTED, read_filtered
    from nmfbench.data.filtered import load_normalised, normalise_block
    from nmfbench.data.held_out import thin_counts
    from nmfbench.factors.card import CARD as CONSENSUS
    from nmfbench.models import get_card

    card = CONSENSUS if kind == CONSENSUS.kind else get_card(kind)
    if not card.expects_values:
        raise NotApplicable(
            f"{kind}: held-out counts",
            "a model that is fitted here and says what it expects of every gene of a cell",
            card.own_cells_only or "what fits of another model agree on",
            "leave it out",
        )
    data = read_filtered(filtered)
    train, test = thin_counts(load_normalised(filtered, **AS_COUNTED), fraction, thinning_seed)
    of_counts = card.input == "counts" and not card.normalises
    values = train if card.input == "counts" else normalise_block(train, **normalisation)
    settings = {**settings, **normalisation} if card.normalises else dict(settings)
    for key in OWN_SHARES & settings.keys():
        settings[key] = 0.0  # it is asked for these molecules, and would set more aside
    asked = {"rank": rank, "settings": settings, "seed": seed, "device": device}
    fits = Fits(
        data, card, normalisation, condition_columns, asked, run, Path(scratch), values, gene_scaling
    )  # fmt: skip
    fitted = fits.fit_without(0, np.ones(data.n_cells, dtype=bool), None)
    taken = fitted.taken(values)
    depth = np.asarray(train.sum(axis=1), dtype=np.float64).ravel()

    def blocks(counts: Any) -> Iterator[np.ndarray]:
        for start in range(0, counts.shape[0], BLOCK):
            yield counts[start : start + BLOCK].toarray()

    def expected() -> Iterator[np.ndarray]:
        for start in range(0, data.n_cells, BLOCK):
            rows = slice(start, min(start + BLOCK, data.n_cells))
            found = np.maximum(fitted.expected_values(taken, rows), 0.0)
            yield found if of_counts else _counts_of(found, depth[rows], **normalisation)

    score = score_deviance(lambda: blocks(train), lambda: blocks(test), expected, fraction)
    shutil.rmtree(scratch, ignore_errors=True)
    log.info("%s: deviance explained %.4f", kind, score.deviance_explained)
    return score


def _counts_of(values: np.ndarray, depth: np.ndarray, *, target_sum: float | None, log1p: bool) -> np.ndarray:
    """Counts of which normalised values, not negative, are expected."""
    if log1p:
        # of a value that no cell can have there is no more than all counts of the cell
        values = np.expm1(np.minimum(values, np.log1p(target_sum or np.inf)))
    return values if target_sum is None else values * (depth / target_sum)[:, None]
