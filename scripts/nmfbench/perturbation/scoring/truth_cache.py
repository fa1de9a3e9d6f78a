"""A ground truth in the published layout, made before: taken over only where it is that of these cells."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nmfbench.errors import InputError

METADATA, BULK = "metadata.json", "ground_truth_bulk.npz"
DE_COLUMNS = ("target", "feature", "p_value")
TOLERANCE = 1e-4
"""Largest difference of a mean log1p value: the published files hold float32."""


@dataclass(frozen=True)
class TruthCache:
    """The three files of a folder: ``metadata.json``, ``ground_truth_bulk.npz`` and a table of p values.

    Attributes
    ----------
    folder : Path
    names : list of str
        Targets of the profiles; the control is one of them.
    genes : list of str
    profiles : ndarray of shape (names, genes)
        Means of log1p values.
    control : str
    de_file : Path
        ``.parquet``, ``.csv``, ``.tsv``, ``.tsv.gz`` with the columns target, feature and p_value; or the
        ``truth.npz`` of this workflow.
    content : str or None
        ``content_sha256``: checksum of the cells, in the folders of this workflow.
    """

    folder: Path
    names: list[str]
    genes: list[str]
    profiles: np.ndarray
    control: str
    de_file: Path
    content: str | None

    @classmethod
    def read(cls, folder: str | Path, *, column: str, control: str, scorer: str) -> TruthCache:
        """Read the folder but for its p values.

        Parameters
        ----------
        folder : path
        column, control : str
            The screen's column of targets and its label of the control, which must be those of the folder.
        scorer : str
            Its name; compared where the folder says one, as those of this workflow do.

        Raises
        ------
        InputError
            A file is missing or is none of this layout, or it is of another column or control.
        """
        folder = Path(folder)
        described = _metadata(folder)
        for key, wanted in (("pert_col", column), ("control", control), ("scorer", scorer)):
            if described.get(key, scorer if key == "scorer" else None) != wanted:
                raise _refused(folder / METADATA, f"{key} {wanted!r}", f"{described.get(key)!r}")
        bulk = folder / str(described.get("bulk_file", BULK))
        try:
            # texts, not pickled objects: to read those is to run what somebody wrote
            with np.load(bulk, allow_pickle=False) as stored:
                names, values, genes = (stored[key] for key in ("bulk_keys", "bulk_values", "genes"))
        except (OSError, KeyError, ValueError) as error:
            wanted = "the arrays bulk_keys and genes as texts, and bulk_values"
            raise _refused(bulk, wanted, str(error)[:200]) from None
        return cls(
            folder,
            [str(name) for name in names],
            [str(gene) for gene in genes],
            np.asarray(values, dtype=np.float64),
            control,
            folder / str(described.get("real_de_file", "real_de.parquet")),
            described.get("content_sha256"),
        )

    def p_values(
        self,
        names: Sequence[str],
        genes: Sequence[str],
        control_profile: np.ndarray,
        profiles: np.ndarray,
        content: str,
    ) -> np.ndarray:
        """The p values of targets and genes, once the profiles are seen to be those of the cells.

        Parameters
        ----------
        names, genes : sequence of str
            Targets and genes of the held-out cells.
        control_profile : ndarray of shape (genes,)
        profiles : ndarray of shape (targets, genes)
            Means of log1p values of the control and of the targets, from the cells.
        content : str
            Checksum of the cells.

        Returns
        -------
        ndarray of shape (targets, genes)

        Raises
        ------
        InputError
            Genes, targets or profiles are others, or a p value is missing.
        """
        if self.content not in (None, content):
            wanted = f"content_sha256 {content[:12]}..., of the cells that are held out"
            raise _refused(self.folder / METADATA, wanted, f"{self.content[:12]}...")
        if self.genes != [str(gene) for gene in genes]:
            differing = set(self.genes) ^ {str(gene) for gene in genes}
            got = f"{len(differing)} others" if differing else "the same in another order"
            raise _refused(self.folder / BULK, f"the {len(genes)} genes of the screen", got)
        place = {name: row for row, name in enumerate(self.names)}
        if absent := [name for name in (self.control, *names) if name not in place]:
            got = f"none of {', '.join(absent[:5])} ({len(absent)})"
            raise _refused(self.folder / BULK, f"profiles of the {len(names)} targets held out", got)
        for name, own in zip((self.control, *names), (control_profile, *profiles), strict=True):
            worst = float(np.abs(self.profiles[place[name]] - own).max())
            if not worst <= TOLERANCE:
                got = f"profiles that differ by up to {worst:.3g} in {name}: other cells, depth or scorer"
                raise _refused(self.folder / BULK, "the profiles of the cells that are held out", got)
        return _p_of(self.de_file, names, genes)


def _metadata(folder: Path) -> dict[str, Any]:
    path = folder / METADATA
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise _refused(path, "the description of a ground truth", str(error)[:200]) from None
    if not isinstance(found, dict):
        raise _refused(path, "the description of a ground truth", type(found).__name__)
    return found


def _p_of(path: Path, names: Sequence[str], genes: Sequence[str]) -> np.ndarray:
    """p values by target and gene, from any of the tables that hold them."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as stored:
            row = {name: number for number, name in enumerate(stored["names"].astype(str))}
            if stored["genes"].astype(str).tolist() != [str(gene) for gene in genes]:
                raise _refused(path, "the genes of the screen", "others")
            if absent := [name for name in names if name not in row]:
                raise _refused(path, "a p value of each target and gene", f"none of {absent[0]}")
            return stored["p"][[row[name] for name in names]]
    table = _de_table(path)
    target = {name: number for number, name in enumerate(names)}
    gene = {str(name): number for number, name in enumerate(genes)}
    table = table[table["target"].isin(target) & table["feature"].isin(gene)]
    p = np.full((len(names), len(genes)), np.nan)
    p[table["target"].map(target), table["feature"].map(gene)] = table["p_value"]
    if missing := int(np.isnan(p).sum()):
        number, column = np.argwhere(np.isnan(p))[0]
        got = f"{missing} are missing, such as {names[number]}, {genes[column]}"
        raise _refused(path, "a p value of each target and gene", got)
    return p


def _de_table(path: Path):
    import pandas as pd

    from nmfbench.tables.files import read_table

    try:
        if path.suffix == ".parquet":
            table = pd.read_parquet(path, columns=list(DE_COLUMNS))
        else:
            table = read_table(path, text=DE_COLUMNS[:2])
    except ImportError:
        raise InputError(
            f"{path}",
            "a package that reads parquet",
            "none is installed",
            "pip install pyarrow, or write the table as real_de.tsv and name it in metadata.json: "
            "real_de_file",
        ) from None
    except (OSError, ValueError, KeyError) as error:
        raise _refused(path, f"the columns {', '.join(DE_COLUMNS)}", str(error)[:200]) from None
    if absent := [name for name in DE_COLUMNS if name not in table]:
        raise _refused(path, f"the columns {', '.join(DE_COLUMNS)}", f"no {absent[0]}")
    return table.assign(**{name: table[name].astype(str) for name in DE_COLUMNS[:2]})


def _refused(path: Path, expected: str, got: str) -> InputError:
    remedy = "give perturbation.truth_cache a folder made of these cells, or leave it out: it is made anew"
    return InputError(f"{path}", expected, got, remedy)
