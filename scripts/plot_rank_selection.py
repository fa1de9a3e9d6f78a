"""Draw which rank the data support: two tables in; PNG and PDF out."""

from nmfbench.job import job

with job(snakemake):
    import pandas as pd

    from nmfbench.figures import rank_selection_figure, save

    tables = [
        pd.read_csv(path, sep="\t", dtype={"model": str, "penalties": str})
        for path in (snakemake.input.fits, snakemake.input.summary)
    ]
    save(rank_selection_figure(*tables, snakemake.params.display_names), [*snakemake.output])
