"""Draw the scores of held-out donors of one dataset and rank: a table in; PNG and PDF out."""

from nmfbench.job import job

with job(snakemake):
    from nmfbench.figures import save
    from nmfbench.figures.donors_held_out import donors_held_out_figure
    from nmfbench.tables.files import read_table

    table = read_table(snakemake.input.table, text=["model", "label"])
    figure = donors_held_out_figure(table, snakemake.params.rank, snakemake.params.display_names)
    save(figure, [snakemake.output.png, snakemake.output.pdf])
