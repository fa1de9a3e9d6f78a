"""Describe the factors of one fit: filtered counts and result in; tables and programs.h5ad out."""

from nmfbench.job import job

with job(snakemake) as run:
    from threadpoolctl import threadpool_limits

    from nmfbench.factors.describe import describe_factors

    outputs = snakemake.output
    with threadpool_limits(run.threads):
        describe_factors(
            snakemake.input.filtered,
            snakemake.input.result,
            factors=outputs.factors,
            summary=outputs.summary,
            labels_table=outputs.labels,
            pairs=outputs.pairs,
            top_genes=outputs.top_genes,
            programs=outputs.programs,
            labels=snakemake.params.labels,
            normalisation=snakemake.params.normalisation,
            n_top_genes=snakemake.params.n_top_genes,
        )
