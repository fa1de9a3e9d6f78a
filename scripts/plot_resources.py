"""Draw the time and memory of every step of one dataset: resources.tsv in; PNG and PDF out."""

from nmfbench.job import job

with job(snakemake):
    from nmfbench.figures import resources_figure, save
    from nmfbench.tables.files import read_table

    resources = read_table(snakemake.input.resources, text=["model"])
    figure = resources_figure(resources, snakemake.params.get("display_names"))
    save(figure, [snakemake.output.png, snakemake.output.pdf])
