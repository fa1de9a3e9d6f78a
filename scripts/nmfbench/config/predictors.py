"""Config sections of the predictors of the second task, read from their own files."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from nmfbench.perturbation.predictors import PREDICTORS, settings_of
from nmfbench.section import Name

PREDICTOR_KINDS: dict[str, Any] = {kind: settings_of(kind) for kind in PREDICTORS}


def _name_the_kind(predictors: Any) -> Any:
    """Let ``nb_glm: {}`` mean ``nb_glm: {kind: nb_glm}``."""
    if not isinstance(predictors, dict):
        return predictors
    named = {}
    for name, section in predictors.items():
        section = {} if section is None else section
        named[name] = {"kind": name, **section} if isinstance(section, dict) else section
    return named


_union = None
for _section in PREDICTOR_KINDS.values():
    _union = _section if _union is None else _union | _section

AnyPredictor = Annotated[_union, Field(discriminator="kind")]
Predictors = Annotated[dict[Name, AnyPredictor], BeforeValidator(_name_the_kind)]
