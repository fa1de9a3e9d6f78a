"""Put the factor tables of all fits of a dataset under one another: tables in; two tables out."""

from nmfbench.job import job

with job(snakemake):
    from nmfbench.factors.tables import read_by_fit
    from nmfbench.tables.files import write_table

    for kind, output in (("factors", "factors"), ("summaries", "summary")):
        write_table(read_by_fit(snakemake.input[kind], snakemake.params.grid), snakemake.output[output])
