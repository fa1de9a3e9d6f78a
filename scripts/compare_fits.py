"""Match the factors of two fits: two result.h5ad in; matches.tsv and all pairs out."""

import logging

from nmfbench.job import job

with job(snakemake):
    from nmfbench.comparison import compare_fits
    from nmfbench.tables.files import write_table

    comparison = compare_fits(snakemake.input.first, snakemake.input.second)
    logging.info("%d cells and %d genes in common", comparison.n_cells, comparison.n_genes)
    write_table(comparison.pairs, snakemake.output.pairs)
    shared = comparison.matches.assign(n_cells=comparison.n_cells, n_genes=comparison.n_genes)
    write_table(shared, snakemake.output.matches)
