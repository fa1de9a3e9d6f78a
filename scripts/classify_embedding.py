"""Predict one label with one shuffle of the folds: result.h5ad in; a table of folds x classifiers out."""

from nmfbench.job import job

with job(snakemake) as run:
    from nmfbench.metrics.classification import classify
    from nmfbench.metrics.neighbours import load_neighbours
    from nmfbench.results import read_embedding
    from nmfbench.tables.files import write_table

    H, obs = read_embedding(snakemake.input.result, snakemake.wildcards)
    table = classify(
        H,
        obs[snakemake.params.label],
        cv_seed=int(snakemake.wildcards.cv_seed),
        neighbours=load_neighbours(snakemake.input.neighbours, "z_scored"),
        n_jobs=run.threads,
        **snakemake.params.classification,
    )
    write_table(table, snakemake.output.folds)
