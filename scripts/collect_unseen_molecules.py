"""Condense the errors of unseen molecules of a dataset by rank: a .tsv for each model in; two .tsv out."""

from nmfbench.job import job

with job(snakemake):
    import logging

    import pandas as pd

    from nmfbench.tables.files import read_table, write_table
    from nmfbench.tables.unseen_molecules import said_of_ranks, summarise_unseen

    fits = pd.concat([read_table(path, text=["model"]) for path in snakemake.input.fits], ignore_index=True)
    summary = summarise_unseen(fits, snakemake.params.tolerance)
    for model, sentence in said_of_ranks(summary, snakemake.params.tolerance).items():
        logging.getLogger(__name__).info("%s: %s", model, sentence)
    write_table(fits, snakemake.output.fits)
    write_table(summary, snakemake.output.summary, digits=6)
