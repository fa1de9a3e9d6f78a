"""Draw how the factors of two fits agree: matches and pairs in; PNG and PDF out."""

from nmfbench.job import job

with job(snakemake):
    from nmfbench.figures import comparison_figure, save
    from nmfbench.tables.files import read_table

    matches, pairs = read_table(snakemake.input.matches), read_table(snakemake.input.pairs)
    save(
        comparison_figure(matches, pairs, snakemake.params.names),
        [snakemake.output.png, snakemake.output.pdf],
    )
