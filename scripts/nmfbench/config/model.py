"""The section `models` of the configuration, made from the cards of all models."""

from __future__ import annotations

import functools
import operator
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from nmfbench.factors.card import CARD as CONSENSUS
from nmfbench.models import cards
from nmfbench.section import Name

CARDS = {**cards(), CONSENSUS.kind: CONSENSUS}


def _name_the_kind(models: Any) -> Any:
    """Let ``ae_nmf: {}`` mean ``ae_nmf: {kind: ae_nmf}``."""
    if not isinstance(models, dict):
        return models
    named = {}
    for name, section in models.items():
        section = {} if section is None else section
        if isinstance(section, dict) and "kind" not in section:
            section = {"kind": name, **section}
        named[name] = section
    return named


AnyModel = Annotated[
    functools.reduce(operator.or_, (card.section for card in CARDS.values())), Field(discriminator="kind")
]
Models = Annotated[dict[Name, AnyModel], BeforeValidator(_name_the_kind)]
