"""Sets of keys under one name, which a config begins from and may change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

CZ_CLASSIFIERS = ["cz_logistic_regression", "cz_knn", "cz_random_forest"]

PROFILES: dict[str, dict[str, Any]] = {
    # the defaults of all keys are the published protocol
    "published": {},
    "cz-benchmarks": {
        "clustering": {
            **{"n_neighbours": 15, "resolution": 1.0, "n_iterations": 2, "flavor": "igraph"},
            **{"z_score": False, "weighted": True, "seeds": [42]},
        },
        "classification": {
            **{"min_cells_per_class": 10, "n_folds": 5, "seeds": [42], "classifiers": CZ_CLASSIFIERS},
        },
        "integration": {"metrics": ["ASW_label", "batch_entropy"], "entropy_neighbours": 200},
    },
    "fast": {
        "clustering": {"seeds": [0, 1, 2]},
        "classification": {"seeds": [42], "classifiers": ["logistic_regression", "knn"]},
        "integration": {"silhouette_cells": 20_000},
        "umap": {"max_cells": 20_000},
        "uncertainty": {"replicates": 500},
    },
}
"""Keys of each profile, over the defaults; what a config says itself goes before them."""

SCORING = ("normalisation", "clustering", "classification", "integration")
"""Keys of the config that decide what a score is, apart from the data and the models."""


def with_profile(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """A config with the keys of its profile below its own.

    An unknown profile is left to the checks of the config.
    """
    name = mapping.get("profile", "published")
    below = PROFILES.get(name, {}) if isinstance(name, str) else {}
    return _over(below, mapping)


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
        found[key] = _over(found[key], value) if both else value
    return found


def described(config: BaseModel) -> str:
    """The profile of a config, and which keys of the scores it changed: what stands in tables.

    Examples
    --------
    ``published``; ``cz-benchmarks; changed: clustering.seeds``
    """
    name = config.profile
    changed = []
    for key in SCORING:
        section = getattr(config, key)
        asked = PROFILES[name].get(key, {})
        wanted = type(section).model_validate(asked)
        for field in type(section).model_fields:
            if getattr(section, field) != getattr(wanted, field):
                changed.append(f"{key}.{field}")
    return name + (f"; changed: {', '.join(changed)}" if changed else "")
