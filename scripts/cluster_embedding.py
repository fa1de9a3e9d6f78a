"""Cluster one embedding once per Leiden seed: result.h5ad in; clusters.tsv.gz out."""

from nmfbench.job import job

with job(snakemake) as run:
    from nmfbench.metrics.clustering import leiden_labels, neighbour_graph
    from nmfbench.results import read_embedding
    from nmfbench.tables.files import write_table

    settings = snakemake.params.clustering
    H, obs = read_embedding(snakemake.input.result)
    graph = neighbour_graph(H, settings["n_neighbours"], n_jobs=run.threads)
    clusters = leiden_labels(
        graph,
        seeds=settings["seeds"],
        resolution=settings["resolution"],
        n_iterations=settings["n_iterations"],
        flavor=settings["flavor"],
    )
    clusters.insert(0, "cell", obs.index.astype(str))
    write_table(clusters, snakemake.output.clusters)
