"""Draw the UMAP of one embedding by every label: umap.tsv.gz and result.h5ad in; PNG and PDF out."""

from nmfbench.job import job

with job(snakemake):
    import pandas as pd

    from nmfbench.figures import save, umap_figure
    from nmfbench.results import read_embedding

    coordinates = pd.read_csv(snakemake.input.umap, sep="\t", dtype={"cell": str})
    _, obs = read_embedding(snakemake.input.result)
    figure = umap_figure(coordinates, obs, snakemake.params.display_name, snakemake.params.labels)
    save(figure, [snakemake.output.png, snakemake.output.pdf])
