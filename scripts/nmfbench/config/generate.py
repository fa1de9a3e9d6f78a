"""Write what is generated from the config classes: the JSON schema and the key tables.

``python -m nmfbench.config.generate`` (or ``make schema``) writes both;
``--check`` only says whether they are stale.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from nmfbench.config.comparison import ComparedFit, Comparison
from nmfbench.config.dataset import Dataset, Genes, Matrix, Normalisation, Simulation
from nmfbench.config.evaluation import Classification, Clustering, Integration, TensorBoard, Umap, Uncertainty
from nmfbench.config.factors import Factors, Projection
from nmfbench.config.model import AENMF, CAENMF1, CAENMF2, Autoencoder, BaseNMF, Model
from nmfbench.config.pnmf import PNMF, PNMFDonor, PNMFSpatial, PoissonFactorisation
from nmfbench.config.statistics import RankSelection, Statistics
from nmfbench.config.whole import Config

BEGIN, END = "<!-- keys: made by `make schema`, do not edit -->", "<!-- end of the keys -->"
# title, section, section whose keys are explained already
TABLES: list[tuple[str, type[BaseModel], type[BaseModel] | None]] = [
    ("The top level", Config, None),
    ("`datasets.<name>`", Dataset, None),
    ("`datasets.<name>.matrix`", Matrix, None),
    ("`datasets.<name>.genes`", Genes, None),
    ("`datasets.<name>.simulate`", Simulation, None),
    ("`normalisation`", Normalisation, None),
    ("`models.<name>`, every model", Model, None),
    ("`models.base_nmf`", BaseNMF, Model),
    ("`models.ae_nmf`, `cae_nmf1` and `cae_nmf2`", Autoencoder, Model),
    ("`models.ae_nmf` alone", AENMF, Autoencoder),
    ("`models.cae_nmf1` alone", CAENMF1, Autoencoder),
    ("`models.cae_nmf2` alone", CAENMF2, Autoencoder),
    ("`statistics`", Statistics, None),
    ("`rank_selection`", RankSelection, None),
    ("`models.pnmf` and `pnmf_donor`", PoissonFactorisation, Model),
    ("`models.pnmf` alone", PNMF, PoissonFactorisation),
    ("`models.pnmf_donor` alone", PNMFDonor, PoissonFactorisation),
    ("`models.pnmf_spatial` alone", PNMFSpatial, PoissonFactorisation),
    ("`clustering`", Clustering, None),
    ("`classification`", Classification, None),
    ("`integration`", Integration, None),
    ("`uncertainty`", Uncertainty, None),
    ("`umap`", Umap, None),
    ("`tensorboard`", TensorBoard, None),
    ("`factors`", Factors, None),
    ("`projections.<name>`", Projection, None),
    ("`comparisons`, each entry", Comparison, None),
    ("`comparisons`: `first` and `second`", ComparedFit, None),
]


def json_schema() -> str:
    """JSON schema of the configuration, for editors and the workflow catalog."""
    schema = Config.model_json_schema()
    return json.dumps({"title": "nmfbench configuration", **schema}, indent=2) + "\n"


def markdown_tables() -> str:
    """Key tables of ``config/README.md``: key, default, meaning."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    for title, section, explained in TABLES:
        yield f"### {title}\n"
        yield "| key | default | meaning |"
        yield "|---|---|---|"
        skip = set(explained.model_fields) if explained else set()
        for key, field in section.model_fields.items():
            if key not in skip and field.description:
                description = field.description.replace("|", "\\|")
                yield f"| `{key}` | {_shown(field.default)} | {description} |"
        yield ""


def _shown(default: Any) -> str:
    """Say a default in one table cell."""
    if default is PydanticUndefined:
        return "needed"
    if default is None:
        return "none"
    if isinstance(default, BaseModel):
        return "see below"
    if isinstance(default, dict) and default:
        return ", ".join(f"`{key}`" for key in default)
    return f"`{json.dumps(default)}`"


def main(arguments: list[str] | None = None) -> int:
    """Write or check the generated files; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say whether the files are stale")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[3] / "config")
    options = parser.parse_args(arguments)
    readme = options.folder / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, after = text[: text.index(BEGIN)], text[text.index(END) :]
    wanted = {
        options.folder / "config.schema.json": json_schema(),
        readme: f"{before}{BEGIN}\n\n{markdown_tables()}\n{after}",
    }
    stale = [path for path, new in wanted.items() if not path.exists() or path.read_text("utf-8") != new]
    for path in stale:
        if options.check:
            sys.stderr.write(f"{path} is stale: run `make schema`\n")
        else:
            path.write_text(wanted[path], encoding="utf-8")
    return int(bool(stale) and options.check)


if __name__ == "__main__":
    sys.exit(main())
