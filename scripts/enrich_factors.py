"""Test the factors of one fit for gene sets: programs.h5ad and a GMT file in; a table out."""

from nmfbench.job import job

with job(snakemake) as run:
    from nmfbench.factors.enrichment import enrich
    from nmfbench.tables.files import write_table

    table = enrich(
        snakemake.input.programs, snakemake.input.gene_sets, n_jobs=run.threads, **snakemake.params.settings
    )
    write_table(table, snakemake.output.enrichment, digits=8)
