"""Score clusters against every label: clusters.tsv.gz and result.h5ad in; tables of scores and counts out."""

from nmfbench.job import job

with job(snakemake):
    import pandas as pd

    from nmfbench.errors import InputError
    from nmfbench.metrics.clustering import count_clusters, score_label
    from nmfbench.results import read_embedding
    from nmfbench.tables.files import read_table, write_table

    clusters = read_table(snakemake.input.clusters, text=["cell"]).set_index("cell")
    _, obs = read_embedding(snakemake.input.result, snakemake.wildcards)
    if list(clusters.index) != list(obs.index.astype(str)):
        raise InputError(
            f"{snakemake.input.clusters}: cell",
            f"the {len(obs)} cells of {snakemake.input.result}, in their order",
            f"{len(clusters)} cells, or others",
            "remake the clusters from this result (snakemake --forcerun cluster_embedding)",
        )
    scores = [score_label(clusters, obs[label]).assign(label=label) for label in snakemake.params.labels]
    table = pd.concat(scores, ignore_index=True)
    counts = [
        count_clusters(clusters, obs[label], obs["donor_id"]).assign(label=label)
        for label in snakemake.params.labels
    ]
    write_table(pd.concat(counts, ignore_index=True), snakemake.output.counts)
    columns = ["label", "leiden_seed", "ARI", "NMI", "n_clusters", "message"]
    write_table(table[columns], snakemake.output.scores)
