"""Draw which rank unseen molecules ask for: two tables in; PNG and PDF out."""

from nmfbench.job import job

with job(snakemake):
    from nmfbench.figures import save, unseen_molecules_figure
    from nmfbench.tables.files import read_table

    tables = [read_table(path, text=["model"]) for path in (snakemake.input.fits, snakemake.input.summary)]
    names, tolerance = snakemake.params.display_names, snakemake.params.tolerance
    save(unseen_molecules_figure(*tables, tolerance, names), [*snakemake.output])
