"""Fit one model at every rank, seed and set of penalties from statistics alone; a table of the fits out."""

from nmfbench.job import job

with job(snakemake) as run:
    from nmfbench.rank_selection import sweep

    smk = snakemake
    sweep(
        smk.input.fitted,
        smk.input.held_out,
        smk.output.fits,
        kind=smk.params.kind,
        name=smk.wildcards.model,
        settings=smk.params.settings,
        device=smk.params.device,
        run=run,
        **smk.params.sweep,
    )
