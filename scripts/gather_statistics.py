"""Gather the sufficient statistics of one shard: filtered counts in; a checksummed .h5 out."""

from nmfbench.job import job
from nmfbench.memory import return_freed_arrays

with job(snakemake) as run:
    from nmfbench.statistics.shards import gather_file

    return_freed_arrays()
    smk = snakemake
    number, _, n_shards = smk.wildcards.scatteritem.partition("-of-")
    gather_file(
        smk.input.filtered,
        smk.output[0],
        shard=int(number) - 1,
        n_shards=int(n_shards),
        normalisation=smk.params.normalisation,
        condition_columns=smk.params.dataset["condition_columns"],
        donor_grams=smk.params.donor_grams,
        should_stop=run.stop_requested,
        **smk.params.settings,
    )
