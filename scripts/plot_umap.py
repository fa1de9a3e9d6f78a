"""Draw the UMAP of one embedding by every label: umap.tsv.gz and result.h5ad in; PNG and PDF out."""

from nmfbench.job import job

with job(snakemake):
    from nmfbench.figures import save, umap_figure
    from nmfbench.results import read_embedding
    from nmfbench.tables.files import read_table

    coordinates = read_table(snakemake.input.umap, text=["cell"])
    _, obs = read_embedding(snakemake.input.result, snakemake.wildcards)
    figure = umap_figure(coordinates, obs, snakemake.params.display_name, snakemake.params.labels)
    save(figure, [snakemake.output.png, snakemake.output.pdf])
