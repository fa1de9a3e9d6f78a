"""Gather what the steps of one dataset left behind, complete or not: all tables of the dataset out."""

from nmfbench.job import job

with job(snakemake):
    from pathlib import Path

    from nmfbench.tables.collect import collect_dataset

    folder = Path(snakemake.output.coverage).parent
    collect_dataset(
        snakemake.wildcards.dataset,
        snakemake.params.grid,
        folder.parents[1],
        folder,
        log_patterns=snakemake.params.log_patterns,
        benchmark_patterns=snakemake.params.benchmark_patterns,
        scheduler_logs=snakemake.params.scheduler_logs,
        jobs=snakemake.params.jobs,
    )
