"""Gather what the runs of one screen left behind, complete or not: tables and aggregates out."""

from nmfbench.job import job

with job(snakemake):
    from pathlib import Path

    from nmfbench.perturbation.tables import collect

    collect(
        snakemake.params.grid,
        Path(snakemake.output.scores).parent,
        bootstrap=snakemake.params.bootstrap,
        scheduler_logs=snakemake.params.scheduler_logs,
    )
