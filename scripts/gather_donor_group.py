"""Gather the statistics of one group of donors: filtered counts in; a checksummed .h5 out."""

from nmfbench.job import job
from nmfbench.memory import return_freed_arrays

with job(snakemake) as run:
    from nmfbench.statistics.shards import gather_file

    return_freed_arrays()
    gather_file(
        snakemake.input.filtered,
        snakemake.output[0],
        shard=int(snakemake.wildcards.group),
        n_shards=snakemake.params.groups,
        normalisation=snakemake.params.normalisation,
        condition_columns=snakemake.params.dataset["condition_columns"],
        donor_grams=False,
        by_donor=True,
        should_stop=run.stop_requested,
        **snakemake.params.settings,
    )
