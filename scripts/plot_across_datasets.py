"""Draw the scores of one label over datasets, at one rank: tables in; PNG and PDF out."""

from nmfbench.job import job

with job(snakemake):
    from nmfbench.figures import save
    from nmfbench.figures.across import across_figure
    from nmfbench.tables.files import read_table

    means, by_dataset = (
        read_table(snakemake.input[name], text=["model", "label"]) for name in ("means", "by_dataset")
    )
    params = snakemake.params
    figure = across_figure(means, by_dataset, params.rank, params.label, params.display_names)
    save(figure, [snakemake.output.png, snakemake.output.pdf])
