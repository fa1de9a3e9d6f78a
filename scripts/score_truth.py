"""Sum up the cells held out: profiles, DE genes and the replicate ceiling out."""

from nmfbench.job import job

with job(snakemake):
    from pathlib import Path

    from nmfbench.perturbation.steps import make_truth

    smk = snakemake
    make_truth(
        smk.input.filtered,
        smk.input.split,
        smk.input.sums,
        smk.params.screen,
        smk.params.scorer,
        Path(smk.output.truth).parent,
    )
