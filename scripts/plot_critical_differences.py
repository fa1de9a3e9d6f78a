"""Draw which models differ over datasets, by one label and at one rank: a table in; PNG and PDF out."""

from nmfbench.job import job

with job(snakemake):
    from nmfbench.figures import save
    from nmfbench.figures.across import critical_difference_figure
    from nmfbench.tables.files import read_table

    params = snakemake.params
    table = read_table(snakemake.input.ranks, text=["model", "label"])
    figure = critical_difference_figure(table, params.rank, params.label, params.display_names)
    save(figure, [snakemake.output.png, snakemake.output.pdf])
