"""Config sections of the second task: screens, splits, embeddings, the scorer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from nmfbench.section import Column, Name, Section, Seed


class Screen(Section):
    """A perturbation screen: which columns of obs say what was done to a cell."""

    column: Column = Field("target_gene", description="Column of obs with the target of each cell.")
    control: str = Field("non-targeting", description="Label of the control cells in that column.")
    batch_column: Column | None = Field(None, description="Column with the batch or replicate.")
    guide_column: Column | None = Field(None, description="Column with the guide.")
    phase_column: Column | None = Field(None, description="Column with the cell cycle phase: G1, S, G2M.")
    score_phases: bool = Field(
        False, description="Score the cell cycle from the counts where there is no column of phases."
    )
    target_map: str | None = Field(
        None, description="Table with the columns label and target, where labels are no gene symbols."
    )
    min_cells: int = Field(20, ge=2, description="A target with fewer cells is left out, with its reason.")
    labels_are_targets: bool = Field(False, description="Do not refuse labels that look like guides.")
    pair_separator: str = Field(
        "+", min_length=1, description="Between the two names of a double perturbation."
    )
    test_path: str | None = Field(
        None,
        description="A second .h5ad, the test part of a given pair; `path` is then the train part. Controls "
        "may be in both; the column `set` (train, test) is added.",
    )


class SimulatedScreen(Section):
    """A simulated screen whose responses are a bilinear form of known vectors, deterministic by seed."""

    n_genes: int = Field(200, ge=10, description="Genes.")
    n_targets: int = Field(12, ge=3, description="Targets; each is one of the genes.")
    n_cells: int = Field(600, ge=40, description="Cells, a fifth of them control cells.")
    width: int = Field(10, ge=1, description="Width of the vectors of the genes.")
    mean_counts: float = Field(600.0, gt=0, description="Median counts of a cell.")
    library_spread: float = Field(0.4, ge=0, description="Standard deviation of the log of a cell's counts.")
    theta: float = Field(5.0, gt=0, description="Size of the negative binomial.")
    effect: float = Field(0.5, ge=0, description="Standard deviation of the specific log fold changes.")
    shared_effect: float = Field(0.15, ge=0, description="Standard deviation of the shared response.")
    knock_down: float = Field(-1.5, description="Log fold change of the target itself, beyond the rest.")
    covariation: float = Field(0.2, ge=0, description="How far the same vectors vary among control cells.")
    n_batches: int = Field(2, ge=1, description="Batches.")
    doubles: int = Field(0, ge=0, description="Double perturbations besides.")
    seed: Seed = Field(0, description="Seed of the simulation.")


class LeaveTargetOut(Section):
    """Each target is predicted once, from the others; all are scored together."""

    kind: Literal["leave_target_out"]
    n_folds: Literal["auto"] | Annotated[int, Field(ge=2)] = Field(
        "auto", description="`auto`: each target a fold below 40 targets, else 5."
    )
    seed: Seed = Field(0, description="Seed of the folds and of the halves of the control cells.")


class HeldOutTargets(Section):
    """A share of the targets is held out once."""

    kind: Literal["held_out_targets"]
    fraction: float = Field(0.2, gt=0, lt=1, description="Share of the targets.")
    seed: Seed = Field(0, description="Seed of the choice.")


class HeldOutBatch(Section):
    """A batch is held out; all targets are seen."""

    kind: Literal["held_out_batch"]
    batch: str = Field(description="Its label in `screen.batch_column`.")
    seed: Seed = Field(0, description="Seed of the halves of the control cells.")


class HeldOutGuide(Section):
    """One guide of each target is held out; targets with one guide are trained on."""

    kind: Literal["held_out_guide"]
    seed: Seed = Field(0, description="Seed of the choice.")


class SplitFile(Section):
    """A table with the columns target and set (train, test), and fold where there are several."""

    kind: Literal["file"]
    path: str = Field(description="CSV or TSV.")
    seed: Seed = Field(0, description="Seed of the halves of the control cells.")


class SplitColumn(Section):
    """A column of obs with the words train and test."""

    kind: Literal["column"]
    column: Column = Field("set", description="Its name; `set` is what a given pair of files gets.")
    targets_seen: bool = Field(False, description="Whether a target may have cells in both.")
    seed: Seed = Field(0, description="Seed of the halves of the control cells.")


AnySplit = Annotated[
    LeaveTargetOut | HeldOutTargets | HeldOutBatch | HeldOutGuide | SplitFile | SplitColumn,
    Field(discriminator="kind"),
]


SPLITS: dict[str, type[Section]] = {
    "leave_target_out": LeaveTargetOut,
    "held_out_targets": HeldOutTargets,
    "held_out_batch": HeldOutBatch,
    "held_out_guide": HeldOutGuide,
    "file": SplitFile,
    "column": SplitColumn,
}


class Embedding(Section):
    """Vectors of genes and of targets."""

    source: Literal["control", "responses", "fit", "csv"] = Field(
        alias="from",
        description="`control`: principal components of the genes over the control cells for training. "
        "`responses`: of the training targets' own log fold changes (for splits where targets are seen). "
        "`fit`: loadings of a model of the first task. `csv`: tables (.csv, .tsv or .npz).",
    )
    components: int = Field(10, ge=1, description="`control` and `responses`: their number.")
    dataset: Name | None = Field(None, description="`fit`: of which dataset.")
    model: Name | None = Field(None, description="`fit`: which model.")
    rank: int | None = Field(None, ge=1, description="`fit`: which rank.")
    seed: Seed | None = Field(None, description="`fit`: which training seed; the first by default.")
    genes: str | None = Field(None, description="`csv`: first column the gene, the others numbers.")
    targets: str | None = Field(
        None, description="`csv`: the same for targets; without it a target has the vector of its gene."
    )
    standardise: bool = Field(
        True, description="Columns to mean 0 and standard deviation 1 over the genes, before the rows."
    )
    normalise: bool = Field(True, description="Rows to length 1 (the published models always do).")

    @model_validator(mode="after")
    def _complete(self) -> Embedding:
        needed = {"fit": ("dataset", "model", "rank"), "csv": ("genes",)}.get(self.source, ())
        if missing := [key for key in needed if getattr(self, key) is None]:
            raise ValueError(f"from: {self.source} needs {', '.join(missing)}")
        return self


class Scorer(Section):
    """How predictions are scored."""

    backend: Literal["house", "vcc", "legacy"] = Field(
        "house",
        description="`house`: ours, with every metric. `vcc`: cell-eval 0.8.2 to the letter. `legacy`: the "
        "older published scorer.",
    )
    target_sum: Literal["auto"] | Annotated[float, Field(gt=0)] = Field(
        "auto", description="Counts that cells are scaled to; `auto`: median of the real control cells."
    )
    control_reference: Literal["real", "split"] = Field(
        "real",
        description="`real`: the real control cells are the reference of both sides. `split`: one half for "
        "the prediction, the other for the truth, so that their noise is not shared.",
    )
    fdr: float = Field(0.05, gt=0, lt=1, description="Level of the Benjamini-Hochberg procedure.")
    responsive: int = Field(5, ge=1, description="DE genes from which a target counts as responsive.")
    ceiling_repeats: int = Field(
        1, ge=0, description="How often the held-out cells are halved for the replicate ceiling."
    )
    bootstrap: int = Field(2000, ge=100, description="Resamples of the targets for intervals.")
    de_table: bool = Field(False, description="Keep p value, FDR and fold change of every target and gene.")


class Perturbation(Section):
    """The second task: which splits, embeddings and scorer."""

    splits: dict[Name, AnySplit] = Field(
        {"unseen": {"kind": "leave_target_out"}},
        min_length=1,
        validate_default=True,
        description="One entry for each split, by `kind`.",
    )
    embeddings: dict[Name, Embedding] = Field(
        {"coexpression": {"from": "control"}},
        validate_default=True,
        description="One entry for each embedding.",
    )
    scorer: Scorer = Field(Scorer(), description="How predictions are scored.")
    truth_cache: str | None = Field(
        None,
        description="Folder of a ground truth made before, in the published layout (`metadata.json`, "
        "`ground_truth_bulk.npz`, `real_de.parquet`); `{dataset}` and `{split}` are filled in. Its p values "
        "are taken over, and nothing where genes, targets, control or profiles differ: that is an error.",
    )
    predict_also: str | None = Field(
        None,
        description="A list of targets (`target_gene,n_cells,median_umi_per_cell`) to draw cells for, after "
        "a fit to all targets and without a score: `snakemake perturbation_submission`.",
    )
    keep_cells: bool = Field(True, description="Keep the drawn cells once they are scored.")


def screen_defaults(section: dict[str, Any]) -> dict[str, Any]:
    """Give a dataset that is only a screen what the first task would ask of it.

    The label of the filter is the target, its donor the batch, and no batch is too small.
    """
    screen = section.get("screen")
    if not isinstance(screen, dict):
        return section
    column = screen.get("column", Screen.model_fields["column"].default)
    extra = [screen.get(key) for key in ("batch_column", "guide_column", "phase_column")]
    kept = [
        column,
        *[name for name in extra if name],
        *(["set", "duplicate_of_train"] if screen.get("test_path") else []),
    ]
    section = {**section, "keep_obs": list(dict.fromkeys([*section.get("keep_obs", []), *kept]))}
    if section.get("tasks") != ["perturbation"]:
        return section
    defaults = {
        "cell_type_column": column,
        "donor_column": screen.get("batch_column") or column,
        "condition_columns": ["donor_id"],
        "min_cells_per_donor": 1,
    }
    return {**defaults, **section}
