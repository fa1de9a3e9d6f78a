"""Predict one label with one shuffle of the folds: result.h5ad in; tables of folds and of counts out."""

from nmfbench.job import job

with job(snakemake) as run:
    from nmfbench.metrics.on_device import scoring_device

    device = scoring_device(snakemake.params.get("device", "cpu"))

    from nmfbench.metrics.classification import classify_and_count
    from nmfbench.metrics.neighbours import load_neighbours
    from nmfbench.results import read_embedding
    from nmfbench.tables.files import write_table

    H, obs = read_embedding(snakemake.input.result, snakemake.wildcards)
    table, counts = classify_and_count(
        H,
        obs[snakemake.params.label],
        obs["donor_id"],
        cv_seed=int(snakemake.wildcards.cv_seed),
        neighbours=load_neighbours(snakemake.input.neighbours, "z_scored"),
        n_jobs=run.threads,
        device=device,
        **snakemake.params.classification,
    )
    write_table(table, snakemake.output.folds)
    write_table(counts, snakemake.output.counts)
