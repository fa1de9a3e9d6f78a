"""Cards of scikit-learn's NMF and of Harmony on its factors, and their sections of the configuration."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from nmfbench.models.baseline.card import MOVED
from nmfbench.models.card import ModelCard, ModelSection, Resources
from nmfbench.packages import HARMONYPY


class Factorisation(ModelSection):
    """scikit-learn's NMF by coordinate descent."""

    init: Literal["nndsvda", "nndsvd", "nndsvdar", "random"] = Field(
        "nndsvda", description="Start, as in scikit-learn."
    )
    max_iter: int = Field(100, ge=1, description="At most this many sweeps.")
    tol: float = Field(1e-4, ge=0, description="scikit-learn's stopping rule on the projected gradient.")


class BaseNMF(Factorisation):
    """scikit-learn's NMF by coordinate descent: the baseline."""

    kind: Literal["base_nmf"] = "base_nmf"


class NMFHarmony(Factorisation):
    """NMF whose factors Harmony moves by the condition columns, never below zero; needs harmonypy."""

    kind: Literal["nmf_harmony"] = "nmf_harmony"
    max_rounds: int = Field(10, ge=1, description="Rounds of Harmony, at most.")
    theta: float = Field(2.0, ge=0, description="How much a cluster of one donor is penalised.")


CARDS = (
    ModelCard(
        section=NMFHarmony,
        estimator="NMFHarmony",
        display_name="NMF_Harmony",
        colour="#001854",
        marker="d",
        revision=1,
        resources=Resources(3000, 12),
        role="baseline",
        gpu=False,
        conditional=True,
        unseen_donors=False,
        own_cells_only=MOVED,
        package=HARMONYPY,
    ),
    ModelCard(
        section=BaseNMF,
        estimator="BaseNMF",
        display_name="Base_NMF",
        colour="#0072B2",
        marker="o",
        revision=1,
        resources=Resources(3000, 12),
        gpu=False,
    ),
)
