"""Keep the donors with enough cells: an .h5ad in; filtered.h5ad and donors.tsv out."""

from nmfbench.job import job

with job(snakemake):
    from nmfbench.data import filter_donors

    filter_donors(
        snakemake.input.source,
        snakemake.output.filtered,
        snakemake.output.donors,
        **snakemake.params.dataset,
    )
