"""Match the programs of two datasets: two result.h5ad in; a table out."""

from nmfbench.job import job

with job(snakemake):
    from nmfbench.factors.across import compare_programs
    from nmfbench.tables.files import write_table

    table = compare_programs(snakemake.input.first, snakemake.input.second)
    write_table(table, snakemake.output.matches)
