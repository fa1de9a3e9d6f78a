"""Fit a model to thinned counts and score what it expects of the rest: filtered counts in; a row out."""

from nmfbench.job import job

with job(snakemake) as run:
    from pathlib import Path

    import pandas as pd

    from nmfbench.held_out_counts import score_held_out_counts
    from nmfbench.tables.files import write_table

    smk = snakemake
    score = score_held_out_counts(
        smk.input.filtered,
        kind=smk.params.kind,
        settings=smk.params.settings,
        rank=int(smk.wildcards.rank),
        seed=int(smk.wildcards.seed),
        device=smk.params.device,
        normalisation=smk.params.normalisation,
        condition_columns=smk.params.dataset["condition_columns"],
        gene_scaling=smk.params.dataset.get("gene_scaling", "none"),
        fraction=smk.params.deviance["fraction"],
        thinning_seed=smk.params.deviance["seed"],
        scratch=Path(smk.output.score).parent / "deviance_checkpoint",
        run=run,
    )
    write_table(pd.DataFrame([vars(score) | smk.params.deviance]), smk.output.score)
