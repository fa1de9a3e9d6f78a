"""Put the stability of consensus fits under one another, rank by rank: tables in; one table out."""

from nmfbench.job import job

with job(snakemake):
    from nmfbench.factors.tables import read_by_fit
    from nmfbench.tables.files import write_table

    table = read_by_fit(snakemake.input.stability, snakemake.params.grid)
    write_table(table, snakemake.output.table)
