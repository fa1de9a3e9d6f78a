"""Score drawn cells against the cells held out: scores, a row for each target, and metrics.json out."""

from nmfbench.job import job

with job(snakemake):
    from nmfbench.perturbation.steps import score_cells

    smk = snakemake
    score_cells(
        smk.input.cells,
        smk.input.profiles,
        smk.input.truth,
        screen=smk.params.screen,
        scorer=smk.params.scorer,
        seed=int(smk.wildcards.seed),
        scores_out=smk.output.scores,
        targets_out=smk.output.targets,
        record_out=smk.output.record,
        de_out=getattr(smk.output, "de", None),
    )
