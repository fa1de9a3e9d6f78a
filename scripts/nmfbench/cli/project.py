"""``nmfbench project``: new cells in the embedding of a fit."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nmfbench.errors import InputError

if TYPE_CHECKING:
    from scipy import sparse

#: Models whose embedding of a cell follows from its counts and the loadings alone.
FROM_LOADINGS = ("base_nmf", "ae_nmf", "cae_nmf1", "cae_nmf2")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("result", type=Path, metavar="result.h5ad", help="of a fit, with run.json beside it")
    parser.add_argument("file", type=Path, metavar="newdata.h5ad", help="raw counts of other cells")
    parser.add_argument("--matrix", default="auto", help="where the counts lie: auto, raw, X or a layer")
    parser.add_argument("--out", type=Path, default=Path("projected.h5ad"), help="default: projected.h5ad")


def run(options: argparse.Namespace) -> None:
    """Write an .h5ad with the names of the new cells and their embedding, without counts."""
    import anndata
    import pandas as pd

    from nmfbench.comparison import read_factors
    from nmfbench.data.counts import locate_counts, open_counts
    from nmfbench.data.h5ad import frame_index, open_h5ad
    from nmfbench.data.writer import whole_h5ad, write_sections
    from nmfbench.results import read_result

    fitted = read_result(options.result)
    model, scale = restore(options.result, read_factors(fitted).loadings)
    parts = []
    scratch = options.out.with_name(f".{options.out.name}.rows")
    with open_h5ad(options.file) as file:
        location = locate_counts(file, options.file, options.matrix)
        cells = frame_index(file["obs"]).astype(str)
        columns = align(
            fitted.var_names.astype(str), frame_index(file[location.var_key]).astype(str), options.file
        )
        with open_counts(file, location, options.file, scratch) as counts:
            for _, block in counts.blocks():
                parts.append(embed(model, block, columns, scale))
    H = np.concatenate(parts)
    key = str(fitted.uns["nmfbench"]["embedding"])
    adata = anndata.AnnData(obs=pd.DataFrame(index=cells), obsm={key: H})
    with whole_h5ad(options.out) as new:
        write_sections(new.hdf5, {"obs": adata.obs, "obsm": dict(adata.obsm)})
    sys.stdout.write(f"{options.out}: obsm[{key!r}], {H.shape[0]:,} cells x {H.shape[1]}\n")


def restore(result: Path, loadings: np.ndarray) -> tuple[Any, dict[str, Any]]:
    """The estimator of a result, ready to embed, and how its counts are to be normalised."""
    from nmfbench.models import get_model

    place = result.with_name("run.json")
    try:
        record = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{place}: the record of the fit", "run.json beside the result", str(error), "copy it there"
        ) from error
    kind = record["kind"]
    if kind not in FROM_LOADINGS:
        raise InputError(
            f"{result}: {kind}",
            f"a model whose embedding follows from the loadings: {', '.join(FROM_LOADINGS)}",
            f"{kind}, whose new cells need a fit of their own",
            "fit the model to all cells together",
        )
    model = get_model(kind)(n_components=loadings.shape[1])
    model.components_ = np.ascontiguousarray(loadings.T)
    model.n_components_, model.n_features_in_ = model.components_.shape
    return model, record["normalisation"]


def align(wanted: np.ndarray, there: np.ndarray, path: Path) -> np.ndarray:
    """Place of every gene of the fit among those of a file."""
    import pandas as pd

    index = pd.Index(there)
    columns = index.get_indexer(wanted) if index.is_unique else np.array([-1])
    if (columns < 0).any():
        missing = [gene for gene, column in zip(wanted, columns, strict=False) if column < 0]
        raise InputError(
            f"{path}: genes",
            f"the {len(wanted):,} genes of the fit, each once",
            f"{len(missing):,} are missing: {', '.join(map(str, missing[:5]))}"
            if index.is_unique
            else "names that occur more than once",
            "use the gene identifiers of the data that was fitted",
        )
    return columns


def embed(model: Any, block: sparse.csr_matrix, columns: np.ndarray, scale: dict[str, Any]) -> np.ndarray:
    """Embedding of a block of cells; their counts are normalised over the genes of the fit."""
    from nmfbench.data.filtered import normalise_block

    chosen = block[:, columns].astype(np.float32)
    chosen.sort_indices()
    return model.transform(normalise_block(chosen, scale["target_sum"], scale["log1p"]))
