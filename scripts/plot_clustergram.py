"""Draw the factors of all fits of a consensus, sorted by program: an .npz in; PNG and PDF out."""

from nmfbench.job import job

with job(snakemake):
    import numpy as np

    from nmfbench.figures import save
    from nmfbench.figures.clustergram import clustergram_figure

    title = f"{snakemake.params.display_name}, rank {snakemake.wildcards.rank}"
    with np.load(snakemake.input.clustering) as clustering:
        figure = clustergram_figure(clustering, title)
    save(figure, [snakemake.output.png, snakemake.output.pdf])
