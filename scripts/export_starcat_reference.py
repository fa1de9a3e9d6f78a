"""Write the programs of one fit in the form that starCAT reads: programs.h5ad in; TSV out."""

from nmfbench.job import job

with job(snakemake):
    from nmfbench.factors.reference import starcat_reference, write_reference

    reference = starcat_reference(snakemake.input.programs, n_genes=snakemake.params.n_genes)
    write_reference(reference, snakemake.output.reference)
