"""Search the nearest neighbours of every cell once: result.h5ad in; neighbours.npz out."""

from nmfbench.job import job

with job(snakemake) as run:
    from nmfbench.metrics.neighbours import find_neighbour_tables, save_neighbours
    from nmfbench.metrics.on_device import scoring_device
    from nmfbench.results import read_embedding

    device = scoring_device(snakemake.params.get("device", "cpu"))
    H, _ = read_embedding(snakemake.input.result, snakemake.wildcards)
    tables = find_neighbour_tables(H, snakemake.params.widths, n_jobs=run.threads, device=device)
    save_neighbours(snakemake.output.neighbours, tables)
