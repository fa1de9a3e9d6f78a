"""Fit one predictor to every fold of a split: sums and vectors in; model, history and run.json out."""

from nmfbench.job import job

with job(snakemake) as run:
    from nmfbench.perturbation.devices import device_of_its_own

    smk = snakemake
    with device_of_its_own(smk.params.devices, smk.params.locks) as device:
        from nmfbench.perturbation.fit import fit_predictor

        fit_predictor(
            smk.input.sums,
            getattr(smk.input, "vectors", None) or None,
            model=smk.output.model,
            history=smk.output.history,
            record=smk.output.record,
            kind=smk.params.kind,
            name=smk.wildcards.predictor,
            settings=smk.params.settings,
            seed=int(smk.wildcards.seed),
            device=device or smk.params.device,
            run=run,
            also=smk.params.also,
            filtered=getattr(smk.input, "filtered", None) or None,
            split=smk.input.split,
            screen=smk.params.screen,
        )
