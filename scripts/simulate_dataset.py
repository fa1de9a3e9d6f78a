"""Simulate one dataset: sizes and seed in; an .h5ad in the CELLxGENE layout out."""

from nmfbench.job import job

with job(snakemake):
    from nmfbench.data import simulate_atlas

    source = snakemake.params.source
    simulate_atlas(snakemake.output[0], min_cells=source["min_cells_per_donor"], **source["simulate"])
