"""The conventions of the three scorers."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan


@dataclass(frozen=True)
class Backend:
    """Conventions of a scorer.

    Attributes
    ----------
    name : str
    target_sum : {"given", "median"} or float
        Counts that cells are scaled to: one number for both sides, the median of each side's own cells, or a
        number.
    reference : {"real", "own"}
        Control that predictions are compared with.
    discrimination_of : {"profiles", "changes"}
        What distances are taken between.
    discrimination_ties : str
        See :func:`~nmfbench.perturbation.scoring.metrics.discrimination`.
    ties, continuity, expressed_only, fold_change
        See :func:`~nmfbench.perturbation.scoring.differential.test_groups`.
    linear_means : bool
        Take fold changes of means of normalised counts, not of means of log1p values.
    when_none : float
        DES of a target without a real DE gene; nan leaves it out.
    expected_profiles : bool
        Score the predictor's expected profile where it gives one, not the mean of the drawn cells.
    baseline : tuple of float
        DES, PDS and MAE of the mean baseline of the published data, for the published overall score.
    """

    name: str
    target_sum: str | float
    reference: str
    discrimination_of: str
    discrimination_ties: str
    ties: bool
    continuity: bool
    expressed_only: bool
    fold_change: str
    linear_means: bool
    when_none: float
    expected_profiles: bool
    baseline: tuple[float, float, float] | None

    def record(self, target_sum: float, fdr: float) -> dict[str, object]:
        """What a score means nothing without: scorer, version, depth, scope of the FDR."""
        from nmfbench import __version__

        return {
            "scorer": self.name,
            "package": "nmfbench",
            "version": __version__,
            "target_sum": target_sum,
            "target_sum_rule": self.target_sum,
            "fdr": fdr,
            "fdr_scope": "within perturbation",
        }


BACKENDS = {
    "house": Backend(
        "house",
        target_sum="given",
        reference="real",
        discrimination_of="changes",
        discrimination_ties="middle",
        ties=True,
        continuity=True,
        expressed_only=True,
        fold_change="epsilon",
        linear_means=True,
        when_none=nan,
        expected_profiles=True,
        baseline=None,
    ),
    "vcc": Backend(
        "vcc",
        target_sum="median",
        reference="own",
        discrimination_of="changes",
        discrimination_ties="strict",
        ties=True,
        continuity=True,
        expressed_only=False,
        fold_change="expm1",
        linear_means=False,
        when_none=0.0,
        expected_profiles=False,
        baseline=(0.0761, 0.52, 0.0269),
    ),
    "legacy": Backend(
        "legacy",
        target_sum=1e4,
        reference="own",
        discrimination_of="profiles",
        discrimination_ties="position",
        ties=False,
        continuity=False,
        expressed_only=False,
        fold_change="scanpy",
        linear_means=False,
        when_none=1.0,
        expected_profiles=False,
        baseline=(0.106, 0.516, 0.027),
    ),
}
