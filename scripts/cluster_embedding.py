"""Cluster one embedding once per Leiden seed: result.h5ad and neighbours.npz in; clusters.tsv.gz out."""

from nmfbench.job import job

with job(snakemake):
    from nmfbench.metrics.clustering import leiden_labels, neighbour_graph
    from nmfbench.metrics.neighbours import load_neighbours
    from nmfbench.results import read_embedding
    from nmfbench.tables.files import write_table

    settings = snakemake.params.clustering
    H, obs = read_embedding(snakemake.input.result, snakemake.wildcards)
    z_score = settings.get("z_score", True)
    neighbours = load_neighbours(snakemake.input.neighbours, "z_scored" if z_score else "as_given")
    graph = neighbour_graph(H, settings["n_neighbours"], neighbours=neighbours, z_score=z_score)
    clusters = leiden_labels(
        graph,
        seeds=settings["seeds"],
        resolution=settings["resolution"],
        n_iterations=settings["n_iterations"],
        flavor=settings["flavor"],
        weighted=settings.get("weighted", False),
    )
    clusters.insert(0, "cell", obs.index.astype(str))
    write_table(clusters, snakemake.output.clusters)
