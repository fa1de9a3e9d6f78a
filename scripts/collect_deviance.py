"""Put the shares of explained deviance of all fits together: a row of each in; a table out."""

from nmfbench.job import job

with job(snakemake):
    from nmfbench.tables.deviance import collect_deviance
    from nmfbench.tables.files import write_table

    write_table(collect_deviance(snakemake.params.fits), snakemake.output.table)
