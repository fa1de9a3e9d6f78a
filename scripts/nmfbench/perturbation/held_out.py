"""The truth of a split between files: the cells held out, their profiles and DE genes, the ceiling."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nmfbench.job import write_json
from nmfbench.perturbation.scoring.backends import BACKENDS
from nmfbench.perturbation.scoring.ceiling import replicate_ceiling
from nmfbench.perturbation.scoring.cells import Cells
from nmfbench.perturbation.scoring.truth import build_truth
from nmfbench.perturbation.scoring.truth_cache import TruthCache
from nmfbench.perturbation.screen import Screen, read_screen, rows_of
from nmfbench.perturbation.splits import SCORED_CONTROL, TRAIN_CONTROL, Split, read_split
from nmfbench.perturbation.sums import read_sums
from nmfbench.tables.files import write_table

log = logging.getLogger(__name__)


def held_out_cells(screen: Screen, split: Split) -> Cells:
    """The cells that predictions are scored against, and the control cells for scoring."""
    mask = (split.fold >= 0) | (split.fold == SCORED_CONTROL)
    codes = screen.codes[mask]
    present = np.unique(codes[codes >= 0])
    group = np.where(codes >= 0, np.searchsorted(present, codes), -1)
    return Cells(rows_of(screen, mask), group, [screen.targets[number] for number in present])


def make_truth(
    filtered: str,
    split: str,
    sums: str,
    screen: Mapping[str, Any],
    scorer: Mapping[str, Any],
    folder: str,
    cache: str | Path | None = None,
) -> None:
    """Sum up the held-out cells and score halves of them.

    Writes ``truth.npz``, the published ``ground_truth_bulk.npz`` and ``metadata.json``, and ``ceiling.tsv``.
    `cache` is a folder in that layout, whose p values are taken over where it is of the same cells.
    """
    cells, roles, gathered = read_screen(filtered, screen), read_split(split), read_sums(sums)
    real, backend = held_out_cells(cells, roles), BACKENDS[scorer["backend"]]
    number = {name: row for row, name in enumerate(cells.targets)}
    own_gene = np.array([cells.gene_of[number[name]] for name in real.names])
    options = {"target_sum": gathered.target_sum, "fdr": scorer["fdr"]}
    described = {"column": screen["column"], "control": screen["control"], "scorer": backend.name}
    made_before = None if cache is None else TruthCache.read(cache, **described)
    truth = build_truth(real, backend, cells.genes, own_gene, cache=made_before, **options)
    truth = replace(truth, **_from_sums(gathered, [number[name] for name in real.names], cells, roles))
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    truth.save(place / "truth.npz")
    responsive = truth.responsive(scorer["responsive"])
    log.info(
        "%d of %d targets have %d or more DE genes", responsive.sum(), len(responsive), scorer["responsive"]
    )
    ceiling = replicate_ceiling(
        real, backend, cells.genes, own_gene, responsive=responsive, reference=truth.reference,
        repeats=scorer["ceiling_repeats"], **options,
    ) if scorer["ceiling_repeats"] else _no_ceiling()  # fmt: skip
    write_table(ceiling, place / "ceiling.tsv")
    keys = [screen["control"], *truth.names]
    np.savez(
        place / "ground_truth_bulk.npz",
        bulk_keys=np.array(keys, dtype=str),
        bulk_values=np.vstack([truth.control_profile, truth.profiles]),
        genes=cells.genes.astype(str),
    )
    write_json(
        place / "metadata.json",
        {
            "pert_col": screen["column"],
            "control": screen["control"],
            "bulk_file": "ground_truth_bulk.npz",
            "real_de_file": "truth.npz",
            "de_method": "wilcoxon",
            "perturbations": truth.names,
            "content_sha256": truth.fingerprint,
            "responsive": [name for name, is_one in zip(truth.names, responsive, strict=True) if is_one],
            **backend.record(truth.target_sum, scorer["fdr"]),
        },
    )


def _no_ceiling():
    import pandas as pd

    return pd.DataFrame(columns=["metric", "targets", "value", "std", "n", "corrected"])


def _from_sums(sums, numbers: list[int], screen: Screen, split: Split) -> dict[str, Any]:
    """What the truth takes from the sums: sums of held-out cells, the reference of each target's fold."""
    held_out = sums.by_target((sums.target >= 0) & (sums.fold >= 0))
    rows = np.searchsorted(held_out.target, numbers)
    profiles = {}
    for fold in range(sums.n_folds):
        profiles[fold] = sums.by_target(sums.training(fold)).profiles.mean(axis=0)
    fold_of = [int(split.fold[(screen.codes == number) & (split.fold >= 0)][0]) for number in numbers]
    control = (sums.target == -1) & (sums.fold == TRAIN_CONTROL)
    return {
        "reference": np.array([profiles[fold] for fold in fold_of]),
        "train_control_profile": sums.logs[control].sum(axis=0) / sums.n[control].sum(),
        "counts": held_out.counts[rows],
        "size": held_out.size[rows],
        "size_squared": held_out.size_squared[rows],
    }
