"""Predict one label in donors held out of the classifiers: result.h5ad in; scores, folds and counts out."""

from nmfbench.job import job

with job(snakemake) as run:
    from nmfbench.metrics.donors_held_out import classify_held_out_donors
    from nmfbench.results import read_embedding
    from nmfbench.tables.files import write_table

    H, obs = read_embedding(snakemake.input.result, snakemake.wildcards)
    label = snakemake.params.label
    tables = classify_held_out_donors(
        H, obs[label], obs["donor_id"], label=label, n_jobs=run.threads, **snakemake.params.donor_cv
    ).frames()
    for name, table in zip(("scores", "folds", "counts"), tables, strict=True):
        write_table(table, snakemake.output[name])
