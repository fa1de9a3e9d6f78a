"""Simulate a perturbation screen: an .h5ad and the true vectors of its genes out."""

from nmfbench.job import job

with job(snakemake):
    from nmfbench.perturbation.simulate import write_screen

    write_screen(snakemake.params.design, snakemake.output.source)
