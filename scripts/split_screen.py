"""Split a screen and add its cells up: filtered counts in; cells, targets, labels and sums out."""

from nmfbench.job import job

with job(snakemake):
    from pathlib import Path

    from nmfbench.perturbation.steps import make_split

    make_split(
        snakemake.input.filtered,
        snakemake.params.screen,
        snakemake.params.split,
        Path(snakemake.output.split).parent,
        snakemake.params.target_sum,
    )
