"""Draw stability against error over the ranks, for every consensus: a table in; PNG and PDF out."""

from nmfbench.job import job

with job(snakemake):
    from nmfbench.figures import save
    from nmfbench.figures.consensus import consensus_figure
    from nmfbench.tables.files import read_table

    figure = consensus_figure(read_table(snakemake.input.table), snakemake.params.display_names)
    save(figure, [snakemake.output.png, snakemake.output.pdf])
