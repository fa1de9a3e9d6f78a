"""Draw the predictive checks of one fit of a model of counts: tables in; PNG and PDF out."""

from nmfbench.job import job

with job(snakemake):
    from nmfbench.figures import save
    from nmfbench.figures.count_checks import count_checks_figure
    from nmfbench.tables.files import read_table

    files = snakemake.input
    figure = count_checks_figure(
        read_table(files.genes, text=["gene"]),
        read_table(files.cells, text=["cell"]),
        read_table(files.held_out),
        snakemake.params.title,
        snakemake.params.colour,
    )
    save(figure, [snakemake.output.png, snakemake.output.pdf])
