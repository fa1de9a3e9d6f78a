"""Put the scores of transferred labels under one another: tables of each fit in; one table out."""

from nmfbench.job import job

with job(snakemake):
    from nmfbench.factors.tables import read_by_fit
    from nmfbench.tables.files import write_table

    write_table(read_by_fit(snakemake.input.scores, snakemake.params.grid), snakemake.output.scores)
