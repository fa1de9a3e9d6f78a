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
) -> DevianceScore:
    """Thin the counts, fit the model to what is left, and score what it expects of the rest.

    Parameters
    ----------
    filtered : str
        The filtered counts.
    kind, settings, rank, seed, device, normalisation, condition_columns
        As in :func:`nmfbench.train.train`.
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
        The model was made elsewhere, or expects counts in a way of its own.
    """
    from nmfbench.data import AS_COUNTED, read_filtered
    from nmfbench.data.filtered import load_normalised, normalise_block
    from nmfbench.data.held_out import thin_counts
    from nmfbench.models import get_card

    card = get_card(kind)
    own = card.input == "counts" and not card.normalises
    if card.role in ("external", "consensus") or own:
        raise NotApplicable(
            f"{kind}: held-out counts",
            "a model of normalised values, fitted here",
            "a model of counts, whose own scores are in held_out_counts.tsv" if own else "a file",
            "leave it out",
        )
    data = read_filtered(filtered)
    train, test = thin_counts(load_normalised(filtered, **AS_COUNTED), fraction, thinning_seed)
    values = train if card.normalises else normalise_block(train, **normalisation)
    settings = {**settings, **normalisation} if card.normalises else settings
    asked = {"rank": rank, "settings": settings, "seed": seed, "device": device}
    fits = Fits(data, card, normalisation, condition_columns, asked, run, Path(scratch), values=values)
    model = fits.fit_without(0, np.ones(data.n_cells, dtype=bool), None)
    depth = np.asarray(train.sum(axis=1), dtype=np.float64).ravel()

    def blocks(counts: Any) -> Iterator[np.ndarray]:
        for start in range(0, counts.shape[0], BLOCK):
            yield counts[start : start + BLOCK].toarray()

    def expected() -> Iterator[np.ndarray]:
        for start in range(0, data.n_cells, BLOCK):
            rows = slice(start, min(start + BLOCK, data.n_cells))
            found = np.maximum(_values(model, values, rows), 0.0)
            if normalisation["log1p"]:
                # of a value that no cell can have there is no more than all counts of the cell
                found = np.expm1(np.minimum(found, np.log1p(normalisation["target_sum"] or np.inf)))
            if normalisation["target_sum"] is not None:
                found *= (depth[rows] / normalisation["target_sum"])[:, None]
            yield found

    score = score_deviance(lambda: blocks(train), lambda: blocks(test), expected, fraction)
    shutil.rmtree(scratch, ignore_errors=True)
    log.info("%s: deviance explained %.4f", kind, score.deviance_explained)
    return score


def _values(model: Any, values: Any, rows: slice) -> np.ndarray:
    """What a model writes for some of the cells that it was fitted to, cells x genes, float64."""
    if hasattr(model, "intercept_"):  # an embedding whose loadings are regressed
        H = model.embedding_[rows].astype(np.float64) - model._centre
        return H @ model.components_.astype(np.float64) + model.intercept_
    if not hasattr(model, "_decoder"):
        return model.embedding_[rows].astype(np.float64) @ model.components_.astype(np.float64)
    decoder, H = model._decoder(), model.transform(values[rows]).astype(np.float64)
    codes = model.conditions_.codes[rows]
    if len(decoder.V) == 1:
        found = H @ np.asarray(decoder.V[0], np.float64)
    else:
        found = np.empty((len(H), decoder.V.shape[2]))
        for group in np.unique(codes[:, 0]):
            mine = codes[:, 0] == group
            found[mine] = H[mine] @ np.asarray(decoder.V[group], np.float64)
    if decoder.U is not None:
        for column in range(codes.shape[1]):
            found += np.asarray(decoder.U, np.float64)[codes[:, column]]
    return found
