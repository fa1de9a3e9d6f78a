"""Draw which rank the data support: two tables in; PNG and PDF out."""

from nmfbench.job import job

with job(snakemake):
    from nmfbench.figures import rank_selection_figure, save
    from nmfbench.tables.files import read_table

    tables = [
        read_table(path, text=["model", "penalties"])
        for path in (snakemake.input.fits, snakemake.input.summary)
    ]
    save(rank_selection_figure(*tables, snakemake.params.display_names), [*snakemake.output])
