"""Join a given pair of files, train and test part: one .h5ad with the column set out."""

from nmfbench.job import job

with job(snakemake):
    from nmfbench.perturbation.join import join_pair

    join_pair(
        snakemake.input.train,
        snakemake.input.test,
        snakemake.output.source,
        column=snakemake.params.column,
        control=snakemake.params.control,
    )
