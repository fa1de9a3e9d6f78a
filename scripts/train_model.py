"""Fit one model: filtered counts in; results-only .h5ad, history and run.json out."""

from nmfbench.job import job

with job(snakemake) as run:
    from nmfbench.train import train

    smk = snakemake
    train(
        smk.input.filtered,
        result=smk.output.result,
        history=smk.output.history,
        record=smk.output.record,
        kind=smk.params.kind,
        name=smk.wildcards.model,
        display_name=smk.params.display_name,
        settings=smk.params.settings,
        rank=int(smk.wildcards.rank),
        seed=int(smk.wildcards.seed),
        device=smk.params.device,
        normalisation=smk.params.normalisation,
        **smk.params.dataset,
        statistics=getattr(smk.input, "statistics", None) or None,
        shuffled=getattr(smk.input, "shuffled", None) or None,
        **smk.params.placement,
        run=run,
        tensorboard=smk.params.tensorboard,
    )
