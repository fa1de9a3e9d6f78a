"""Condense the light fits of all models of a dataset: a .tsv for each model in; two .tsv out."""

from nmfbench.job import job

with job(snakemake):
    import pandas as pd

    from nmfbench.tables.files import read_table, write_table
    from nmfbench.tables.rank_selection import summarise

    fits = pd.concat(
        [read_table(path, text=["model", "penalties"]) for path in snakemake.input.fits], ignore_index=True
    )
    write_table(fits, snakemake.output.fits)
    write_table(summarise(fits), snakemake.output.summary, digits=6)
