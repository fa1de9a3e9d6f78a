"""Sum up the cells held out: profiles, DE genes and the replicate ceiling out."""

from nmfbench.job import job

with job(snakemake):
    from pathlib import Path

    from nmfbench.perturbation.held_out import make_truth

    smk = snakemake
    make_truth(
        smk.input.filtered,
        smk.input.split,
        smk.input.sums,
        smk.params.screen,
        smk.params.scorer,
        Path(smk.output.truth).parent,
        cache=Path(smk.input.made_before).parent if smk.input.made_before else None,
    )
