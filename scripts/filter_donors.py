"""Keep the donors with enough cells: an .h5ad in; filtered.h5ad and donors.tsv out."""

from nmfbench.job import job
from nmfbench.memory import return_freed_arrays

with job(snakemake):
    from nmfbench.data import filter_donors

    return_freed_arrays()
    filter_donors(
        snakemake.input.source,
        snakemake.output.filtered,
        snakemake.output.donors,
        **snakemake.params.dataset,
    )
