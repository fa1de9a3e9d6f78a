"""Gather the scores of held-out donors of one dataset: scores and counts of all fits in; tables out."""

from nmfbench.job import job

with job(snakemake):
    from pathlib import Path

    from nmfbench.tables.donors_held_out import donors_held_out
    from nmfbench.tables.files import read_table, write_table

    scores, folds = donors_held_out(
        snakemake.params.grid,
        Path(snakemake.output.table).parents[2],
        read_table(snakemake.input.folds, text=["label"]),
        transfer_asked=snakemake.params.transfer_asked,
        **snakemake.params.uncertainty,
    )
    write_table(scores, snakemake.output.table)
    write_table(folds, snakemake.output.folds)
