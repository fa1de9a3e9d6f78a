"""Score how an embedding mixes donors and keeps cell types: result, neighbours, reference in; a .tsv out."""

from nmfbench.job import job

with job(snakemake) as run:
    from nmfbench.metrics.integration import integration_scores
    from nmfbench.metrics.neighbours import load_neighbours
    from nmfbench.metrics.reference import load_reference
    from nmfbench.results import cells_of_dataset, read_embedding
    from nmfbench.tables.files import write_table

    H, obs = read_embedding(snakemake.input.result, snakemake.wildcards)
    table = integration_scores(
        H,
        obs["cell_type"],
        obs["donor_id"],
        load_neighbours(snakemake.input.neighbours, "as_given"),
        load_reference(snakemake.input.reference, len(H), cells_of_dataset(snakemake.input.result)),
        n_jobs=run.threads,
        **snakemake.params.integration,
    )
    write_table(table, snakemake.output.scores)
