"""Put the held-out scores of models of counts together: tables and records of fits in; table out."""

from nmfbench.job import job

with job(snakemake):
    from nmfbench.tables.files import write_table
    from nmfbench.tables.held_out import collect_held_out

    table = collect_held_out(snakemake.params.tables, snakemake.params.records)
    write_table(table, snakemake.output.table)
