"""Say how sure the scores of a dataset are: scores, folds and counts in; intervals and comparisons out."""

from nmfbench.job import job

with job(snakemake):
    from pathlib import Path

    from nmfbench.tables.files import read_table, write_table
    from nmfbench.tables.uncertainty import comparisons, intervals

    scores, folds = (read_table(snakemake.input[name], text=["label"]) for name in ("scores", "folds"))
    directory = Path(snakemake.output.intervals).parents[2]
    grid = snakemake.params.grid
    write_table(
        intervals(scores, grid, directory, **snakemake.params.uncertainty), snakemake.output.intervals
    )
    write_table(comparisons(scores, folds, grid), snakemake.output.comparisons)
