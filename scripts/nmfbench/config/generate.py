"""Write what follows from the config and the cards: JSON schema, key tables, models in the cluster profile.

``python -m nmfbench.config.generate`` (or ``make schema``) writes them;
``--check`` only says whether they are stale.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from nmfbench.config.comparison import ComparedFit, Comparison
from nmfbench.config.dataset import Dataset, Genes, Matrix, Normalisation, Simulation
from nmfbench.config.evaluation import (
    Classification,
    Clustering,
    Deviance,
    DonorCV,
    DonorTransfer,
    Integration,
    TensorBoard,
    Umap,
    Uncertainty,
)
from nmfbench.config.factors import Enrichment, Factors, Projection
from nmfbench.config.model import CARDS
from nmfbench.config.perturbation import SPLITS, Embedding, Perturbation, Scorer, Screen, SimulatedScreen
from nmfbench.config.predictors import PREDICTOR_KINDS
from nmfbench.config.schema import Config
from nmfbench.config.statistics import RankSelection, Statistics
from nmfbench.models.card import ModelSection
from nmfbench.perturbation.predictors.base import PredictorSettings

BEGIN, END = "<!-- keys: made by `make schema`, do not edit -->", "<!-- end of the keys -->"


def tables() -> Iterator[tuple[str, type[BaseModel], Iterable[str]]]:
    """Title, section and keys of every table of ``config/README.md``."""
    yield from _whole(
        ("The top level", Config),
        ("`datasets.<name>`", Dataset),
        ("`datasets.<name>.matrix`", Matrix),
        ("`datasets.<name>.genes`", Genes),
        ("`datasets.<name>.simulate`", Simulation),
        ("`datasets.<name>.screen`", Screen),
        ("`datasets.<name>.simulate_screen`", SimulatedScreen),
        ("`normalisation`", Normalisation),
    )
    yield from model_tables()
    yield from _whole(
        ("`statistics`", Statistics),
        ("`rank_selection`", RankSelection),
        ("`clustering`", Clustering),
        ("`classification`", Classification),
        ("`donor_cv`", DonorCV),
        ("`donor_transfer`", DonorTransfer),
        ("`deviance`", Deviance),
        ("`integration`", Integration),
        ("`uncertainty`", Uncertainty),
        ("`umap`", Umap),
        ("`factors`", Factors),
        ("`factors.enrichment`", Enrichment),
        ("`projections.<name>`", Projection),
        ("`tensorboard`", TensorBoard),
        ("`comparisons`, each entry", Comparison),
        ("`comparisons`: `first` and `second`", ComparedFit),
        ("`perturbation`", Perturbation),
        *((f"`perturbation.splits.<name>`, `kind: {kind}`", section) for kind, section in SPLITS.items()),
        ("`perturbation.embeddings.<name>`", Embedding),
        ("`perturbation.scorer`", Scorer),
        ("`predictors.<name>`, every predictor", PredictorSettings),
    )
    for kind, section in PREDICTOR_KINDS.items():
        known = set(PredictorSettings.model_fields)
        yield f"`predictors.{kind}`", section, [key for key in section.model_fields if key not in known]


def model_tables() -> Iterator[tuple[str, type[BaseModel], Iterable[str]]]:
    """A table for what every model has, for what a family shares, and for what a model has alone."""
    families: dict[type[BaseModel], list[str]] = {}
    for kind, card in CARDS.items():
        for section in reversed(card.section.mro()):
            if issubclass(section, ModelSection):
                families.setdefault(section, []).append(kind)
    for section, kinds in families.items():
        if section is ModelSection:
            title = "`models.<name>`, every model"
        elif section is CARDS[kinds[0]].section:
            shares = section.mro()[1] is not ModelSection
            title = f"`models.{kinds[0]}`" + " alone" * shares
        else:
            *first, last = (f"`{kind}`" for kind in kinds)
            title = f"{', '.join(first)} and {last}".replace("`", "`models.", 1)
        own = [key for key in section.model_fields if key in section.__annotations__]
        yield title, section, own
        for key in own:
            for kind in get_args(section.model_fields[key].annotation):
                if isinstance(kind, type) and issubclass(kind, BaseModel):
                    yield f"`{key}`, within a model's section", kind, kind.model_fields


def _whole(*sections: tuple[str, type[BaseModel]]) -> Iterator[tuple[str, type[BaseModel], Iterable[str]]]:
    yield from ((title, section, section.model_fields) for title, section in sections)


def json_schema() -> str:
    """JSON schema of the configuration, for editors and the workflow catalog."""
    schema = Config.model_json_schema()
    return json.dumps({"title": "nmfbench configuration", **schema}, indent=2) + "\n"


def markdown_tables() -> str:
    """Key tables of ``config/README.md``: key, default, meaning."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    for title, section, keys in tables():
        rows = [(key, field) for key in keys if (field := section.model_fields[key]).description]
        if rows:
            yield f"### {title}\n"
            yield "| key | default | meaning |"
            yield "|---|---|---|"
            for key, field in rows:
                description = field.description.replace("|", "\\|")
                yield f"| `{field.alias or key}` | {_shown(field.default)} | {description} |"
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


def profile(text: str) -> str:
    """A cluster profile with a line of cores for the training of every model; numbers in it stay."""
    line = re.compile(r"^  train_(\w+): (\d+)\n", re.MULTILINE)
    cores = dict(line.findall(text))
    first = line.search(text).start()
    several = {kind: 8 if card.resources.threads > 1 else 1 for kind, card in CARDS.items()}
    lines = (f"  train_{kind}: {cores.get(kind, several[kind])}\n" for kind in CARDS)
    return text[:first] + "".join(lines) + line.sub("", text[first:])


def main(arguments: list[str] | None = None) -> int:
    """Write or check the generated files; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say whether the files are stale")
    parser.add_argument(
        "--folder", type=Path, default=Path(__file__).parents[3] / "config", help="config/ of the checkout"
    )
    options = parser.parse_args(arguments)
    slurm = options.folder.parent / "profiles" / "slurm" / "profile.yaml"
    readme = options.folder / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, after = text[: text.index(BEGIN)], text[text.index(END) :]
    wanted = {
        options.folder / "config.schema.json": json_schema(),
        readme: f"{before}{BEGIN}\n\n{markdown_tables()}\n{after}",
        slurm: profile(slurm.read_text(encoding="utf-8")),
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
