"""Files of predicted cells: written by the workflow, or brought by somebody."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from nmfbench.data.writer import whole_h5ad, write_sections
from nmfbench.errors import InputError
from nmfbench.perturbation.background import Prediction
from nmfbench.perturbation.cell_cycle import PHASES
from nmfbench.perturbation.scoring.cells import Cells

log = logging.getLogger(__name__)


def write_cells(
    path: str | Path,
    control: sparse.csr_matrix,
    drawn: Iterable[tuple[str, sparse.csr_matrix, np.ndarray]],
    *,
    genes: Sequence[str],
    column: str,
    control_label: str,
    max_cells: int,
    uns: dict[str, Any],
) -> None:
    """Write the real control cells for training and, below them, drawn cells, a part at a time.

    Parameters
    ----------
    control : csr_matrix of shape (cells, genes)
    drawn : iterable of (target, counts, phases)
        See :func:`nmfbench.perturbation.sampling.draw_cells`.
    genes : sequence of str
    column, control_label : str
        The column of obs that holds the target, and the label of the control.
    max_cells : int
        The most cells that will come.
    uns : dict
        What is recorded of the prediction.
    """
    import pandas as pd

    with whole_h5ad(path) as new:
        writer = new.csr("X", len(genes), max_cells * len(genes))
        writer.append(_sorted(control))
        targets, phases = [control_label] * control.shape[0], [np.zeros(control.shape[0], dtype=np.int64)]
        for name, counts, phase in drawn:
            writer.append(_sorted(counts))
            targets += [name] * counts.shape[0]
            phases.append(phase)
        writer.finish()
        n_control = control.shape[0]
        names = [f"control-{number}" for number in range(n_control)]
        names += [f"predicted-{number}" for number in range(len(targets) - n_control)]
        obs = pd.DataFrame(
            {
                column: pd.Categorical(targets),
                "phase": pd.Categorical.from_codes(np.concatenate(phases), list(PHASES)),
                "predicted": np.arange(len(targets)) >= n_control,
            },
            index=names,
        )
        var = pd.DataFrame(index=pd.Index(np.asarray(genes, dtype=str).tolist()))
        write_sections(new.hdf5, {"obs": obs, "var": var, "uns": uns})


def _sorted(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    counts = counts.astype(np.float32)
    counts.sort_indices()
    return counts


def read_cells(path: str | Path, column: str, control_label: str) -> tuple[Cells, list[str]]:
    """Cells of a file of :func:`write_cells`, and its genes; the control cells are the group -1."""
    import anndata

    file = anndata.read_h5ad(path)
    labels = file.obs[column].astype(str).to_numpy()
    names = sorted(set(labels) - {control_label})
    place = {name: number for number, name in enumerate(names)} | {control_label: -1}
    group = np.array([place[label] for label in labels], dtype=np.int64)
    return Cells(sparse.csr_matrix(file.X), group, names), list(file.var_names)


def read_predictions(
    path: str | Path,
    *,
    genes: Sequence[str],
    targets: Sequence[str],
    column: str,
    control_label: str,
    allow_non_integer: bool = False,
) -> Cells:
    """Read somebody's predicted cells and bring them into the order of the screen.

    Parameters
    ----------
    path : path
        An .h5ad with counts in X.
    genes : sequence of str
        Genes of the screen. Others are left out; their order is the screen's afterwards.
    targets : sequence of str
        Targets that were held out. Cells of others are left out.
    column, control_label : str
        The column of obs with the target, and the label of the control.
    allow_non_integer : bool
        Take values that are no whole numbers.

    Raises
    ------
    InputError
        The file lacks the column, a gene or a target, or its values are no counts.
    """
    import anndata

    if not Path(path).is_file():
        raise InputError(
            f"{path}", "an .h5ad of predicted cells", "no such file", "mend predictors.<name>.path"
        )
    try:
        file = anndata.read_h5ad(path)
    except (OSError, KeyError, ValueError) as error:
        raise InputError(
            f"{path}", "an .h5ad of predicted cells", str(error)[:200], "write it again"
        ) from None
    if column not in file.obs:
        raise InputError(
            f"{path}: obs",
            f"a column {column!r}",
            ", ".join(map(str, file.obs)) or "none",
            "rename the column",
        )
    place = {name: number for number, name in enumerate(file.var_names)}
    absent = [gene for gene in genes if gene not in place]
    if absent:
        raise InputError(
            f"{path}: var",
            f"all {len(genes)} genes of the screen, by name",
            f"{len(absent)} are missing, such as {absent[0]!r}",
            "predict them as well; the order does not matter",
        )
    labels = file.obs[column].astype(str).to_numpy()
    lost = sorted(set(targets) - set(labels))
    if lost:
        raise InputError(
            f"{path}: obs[{column!r}]",
            f"cells of each of the {len(targets)} targets held out",
            f"none of {', '.join(lost[:5])}{' ...' * (len(lost) > 5)} ({len(lost)})",
            "predict them as well: a score over some targets is not one over all",
        )
    extra = sorted(set(labels) - set(targets) - {control_label})
    if extra:
        log.info("%s: cells of %d targets that were not held out are left out", path, len(extra))
    number = {name: row for row, name in enumerate(targets)} | {control_label: -1}
    group = np.array([number.get(label, -2) for label in labels], dtype=np.int64)
    kept = np.flatnonzero(group > -2)
    columns = [place[gene] for gene in genes]
    counts = sparse.csr_matrix(file.X)[kept][:, columns].astype(np.float32)
    counts.sort_indices()
    _require_counts(counts, path, allow_non_integer)
    return Cells(counts, group[kept], list(targets))


def _require_counts(counts: sparse.csr_matrix, path: str | Path, allow_non_integer: bool) -> None:
    values = counts.data
    if len(values) and (not np.isfinite(values).all() or values.min() < 0):
        raise InputError(f"{path}: X", "counts", "values that are negative or not finite", "write raw counts")
    if not allow_non_integer and len(values) and np.any(values != np.round(values)):
        bad = values[values != np.round(values)]
        raise InputError(
            f"{path}: X",
            "raw counts: whole numbers",
            f"{len(bad)} of {len(values)} values are not, such as {bad[0]:g}; they look normalised",
            "draw counts, or say predictors.<name>.allow_non_integer: true",
        )


def save_profiles(
    path: str | Path, prediction: Prediction | None, names: Sequence[str], theta: np.ndarray
) -> None:
    """Write the expected profiles and rates beside drawn cells; only the names where there are none."""
    if prediction is None:
        np.savez(path, names=np.array(names, dtype=str), flags=np.array([""] * len(names)))
        return
    np.savez(
        path,
        names=np.array(prediction.names, dtype=str),
        flags=np.array(prediction.flags, dtype=str),
        profile=prediction.profile,
        log_rate=prediction.log_rate,
        theta=theta,
    )
