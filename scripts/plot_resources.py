"""Draw the time and memory of every step of one dataset: resources.tsv in; PNG and PDF out."""

from nmfbench.job import job

with job(snakemake):
    import pandas as pd

    from nmfbench.figures import resources_figure, save

    resources = pd.read_csv(snakemake.input.resources, sep="\t", dtype={"model": str, "device": str})
    figure = resources_figure(resources, snakemake.params.get("display_names"))
    save(figure, [snakemake.output.png, snakemake.output.pdf])
