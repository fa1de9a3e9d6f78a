"""Card of external embeddings, and their section of the configuration."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from nmfbench.models.card import ModelCard, ModelSection, Resources


class External(ModelSection):
    """An embedding made elsewhere, taken in by the names of its cells; nothing is trained."""

    kind: Literal["external"] = "external"
    path: str = Field(
        "",
        description="An .h5ad, or a .tsv or .csv (.gz) whose first column names the cells. `<dataset>`, "
        "`<rank>` and `<seed>` in it stand for those of the fit.",
    )
    obsm: str | None = Field(None, description="Key of obsm, for an .h5ad; none: the only one it has.")

    allow_missing: bool = Field(
        False,
        description="Whether the file may lack cells of the dataset: it is then scored on those it has, "
        "tables say on how many, and it is compared with no other model.",
    )

    def parameters(self) -> dict[str, Any]:
        """The estimator's parameters."""
        found = super().parameters()
        if not self.allow_missing:  # as before there was the key: nothing is taken in again for it
            del found["allow_missing"]
        return found

    def of_fit(self, fit: Any) -> External:
        """With the path of this fit's file."""
        path = self.path
        for key in ("dataset", "rank", "seed"):
            path = path.replace(f"<{key}>", str(getattr(fit, key, f"<{key}>")))
        return self.model_copy(update={"path": path})

    def pattern_files(self) -> list[str]:
        """The embedding: a changed file is taken in anew."""
        return [self.path] if self.path else []


CARDS = (
    ModelCard(
        section=External,
        estimator="External",
        display_name="External",
        colour="#C23B80",
        marker="v",
        revision=1,
        resources=Resources(3000, 12, threads=1),
        role="external",
        gpu=False,
        non_negative=False,
        unseen_donors=False,
        needs=frozenset({"names", "patterns"}),
        expects_values=False,
        own_cells_only="an embedding that was made elsewhere: what made it is not known",
    ),
)
