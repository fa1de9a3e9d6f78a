"""Make what integration scores compare with: filtered.h5ad in; reference.npz out."""

from nmfbench.job import job

with job(snakemake):
    from nmfbench.metrics.reference import make_reference, save_reference

    save_reference(snakemake.output.reference, make_reference(snakemake.input.filtered))
