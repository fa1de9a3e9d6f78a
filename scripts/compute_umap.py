"""Lay the cells out for the figures: result.h5ad in; umap.tsv.gz (cell, UMAP1, UMAP2) out."""

from nmfbench.job import job

with job(snakemake) as run:
    from nmfbench.metrics.neighbours import load_neighbours
    from nmfbench.metrics.projection import compute_umap
    from nmfbench.results import read_embedding
    from nmfbench.tables.files import write_table

    H, obs = read_embedding(snakemake.input.result, snakemake.wildcards)
    coordinates = compute_umap(
        H,
        n_neighbours=snakemake.params.n_neighbours,
        strata=obs["cell_type"],
        neighbours=load_neighbours(snakemake.input.neighbours, "z_scored"),
        n_jobs=run.threads,
        **snakemake.params.umap,
    )
    coordinates.insert(0, "cell", obs.index.astype(str)[coordinates.index])
    write_table(coordinates, snakemake.output.umap)
