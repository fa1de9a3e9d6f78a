"""Draw how many factors of each model lead gene sets: a table in; PNG and PDF out."""

from nmfbench.job import job

with job(snakemake):
    from nmfbench.figures import save
    from nmfbench.figures.enrichment import enrichment_figure
    from nmfbench.inapplicable import none_applicable, reason_in
    from nmfbench.tables.files import read_table

    if reason_in(snakemake.input.summary) is not None:
        raise none_applicable([snakemake.input.summary])
    rank = int(snakemake.wildcards.rank)
    summary = read_table(snakemake.input.summary).query("rank == @rank and seed == @snakemake.params.seed")
    figure = enrichment_figure(summary, snakemake.params.display_names, rank)
    save(figure, [snakemake.output.png, snakemake.output.pdf])
