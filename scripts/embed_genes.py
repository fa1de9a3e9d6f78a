"""Vectors of genes and targets: control cells, a fit of the first task or tables in; an .npz out."""

from nmfbench.job import job

with job(snakemake):
    from nmfbench.perturbation.steps import make_embedding

    make_embedding(
        snakemake.input.filtered,
        snakemake.input.split,
        snakemake.params.screen,
        snakemake.params.embedding,
        snakemake.output.vectors,
        fit=getattr(snakemake.input, "fit", None) or None,
        also=snakemake.params.also,
    )
