"""Write the shuffled store that minibatches out of core are drawn from: filtered counts in; an .h5ad out."""

from nmfbench.job import job
from nmfbench.memory import return_freed_arrays

with job(snakemake):
    from nmfbench.rows.shuffle import shuffle_cells

    return_freed_arrays()
    shuffle_cells(
        snakemake.input.filtered, snakemake.output[0], by_type=snakemake.wildcards.order == "by_type"
    )
