"""Fit a model to half of the molecules and write the other half: filtered counts in; a table by rank out."""

from nmfbench.job import job

with job(snakemake) as run:
    from nmfbench.unseen_molecules import score_unseen_molecules

    smk = snakemake
    score_unseen_molecules(
        smk.input.filtered,
        smk.output.fits,
        kind=smk.params.kind,
        name=smk.wildcards.model,
        settings=smk.params.settings,
        ranks=smk.params.ranks,
        seeds=smk.params.seeds,
        normalisation=smk.params.normalisation,
        gene_scaling=smk.params.dataset["gene_scaling"],
        device=smk.params.device,
        run=run,
    )
