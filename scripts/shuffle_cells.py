"""Write the shuffled store that minibatches out of core are drawn from: filtered counts in; an .h5ad out."""

from nmfbench.job import job

with job(snakemake):
    from nmfbench.training.shards import shuffle_cells

    shuffle_cells(
        snakemake.input.filtered, snakemake.output[0], by_type=snakemake.wildcards.order == "by_type"
    )
