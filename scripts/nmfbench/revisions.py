"""One number for each stage of the workflow, raised by hand where the stage's results change.

A rule hands its number to Snakemake as a parameter, so that results of an earlier one are made again, and
the reason shown is ``before: 'filter_donors 1' now: 'filter_donors 2'``. Nothing else about the code makes
a job run again. Models have theirs on their cards. A test holds small results of every stage
(``tests/golden.yaml``) and asks for a raise where they move; docs/reruns.md says what a raise costs.
"""

from __future__ import annotations

from nmfbench.models.card import ModelCard

REVISIONS: dict[str, int] = {
    "simulate_dataset": 1,
    "filter_donors": 1,
    "shuffle_cells": 1,
    "gather_statistics": 1,
    "merge_statistics": 1,
    "select_ranks": 1,
    "collect_rank_selection": 1,
    "score_unseen_molecules": 1,
    "collect_unseen_molecules": 1,
    "find_neighbours": 1,
    "cluster_embedding": 1,
    "score_clusters": 1,
    "classify_embedding": 1,
    "classify_held_out_donors": 1,
    "gather_donor_group": 1,
    "merge_donor_groups": 1,
    "transfer_to_donors": 1,
    "collect_donors_held_out": 2,
    "plot_donors_held_out": 1,
    "compute_umap": 1,
    "make_reference": 1,
    "score_integration": 1,
    "compare_fits": 1,
    "describe_factors": 1,
    "compare_programs": 1,
    "collect_consensus": 1,
    "plot_consensus": 1,
    "plot_clustergram": 1,
    "enrich_factors": 1,
    "collect_enrichment": 1,
    "plot_enrichment": 1,
    "render_factor_page": 1,
    "collect_factors": 1,
    "export_starcat_reference": 1,
    "project_cells": 1,
    "collect_projections": 1,
    "collect_held_out": 1,
    "compare_with_nuts": 1,
    "collect_tables": 2,
    "estimate_uncertainty": 2,
    "score_held_out_counts": 2,
    "collect_deviance": 1,
    "collect_across_datasets": 2,
    "plot_across_datasets": 1,
    "plot_critical_differences": 1,
    "plot_scores": 1,
    "plot_tradeoff": 2,
    "plot_training": 1,
    "plot_umap": 1,
    "plot_factors": 1,
    "plot_factor_statistics": 1,
    "plot_orthogonality": 1,
    "plot_resources": 1,
    "plot_rank_selection": 1,
    "plot_unseen_molecules": 1,
    "plot_comparison": 1,
    "simulate_screen": 1,
    "join_screen": 1,
    "split_screen": 1,
    "embed_genes": 1,
    "train_predictor": 1,
    "predict_cells": 1,
    "score_truth": 1,
    "score_predictions": 1,
    "collect_perturbation_tables": 1,
    "plot_perturbation": 1,
    "plot_count_checks": 1,
}


def revision(stage: str) -> str:
    """A stage and its number, ``filter_donors 1``."""
    return f"{stage} {REVISIONS[stage]}"


def training_revision(card: ModelCard) -> str:
    """A model, or a consensus of its fits, and the number on its card: ``train ae_nmf 1``."""
    return f"train {card.kind} {card.revision}"
