"""Draw the cells of a list of targets: a model in; cells and expected profiles out."""

from nmfbench.job import job

with job(snakemake):
    from nmfbench.perturbation.steps import predict_cells

    smk = snakemake
    predict_cells(
        getattr(smk.input, "model", None) or None,
        smk.input.targets,
        smk.input.filtered,
        smk.input.split,
        screen=smk.params.screen,
        settings=smk.params.settings,
        sampling=smk.params.sampling,
        predictor=smk.wildcards.predictor,
        seed=int(smk.wildcards.seed),
        cells_out=smk.output.cells,
        profiles_out=smk.output.profiles,
    )
