"""Draw objective, orthogonality and matched factors of the fits of one rank: tables in; PNG and PDF out."""

from nmfbench.job import job

with job(snakemake):
    from nmfbench.factors.tables import inapplicable_models, matched_with, read_by_model
    from nmfbench.figures import save
    from nmfbench.figures.orthogonality import orthogonality_figure

    files, names = snakemake.input, snakemake.params.display_names
    figure = orthogonality_figure(
        read_by_model(files.histories, names),
        read_by_model(files.summaries, names),
        matched_with(files.results, names, snakemake.params.reference),
        names,
        snakemake.params.reference,
        int(snakemake.wildcards.rank),
        inapplicable=inapplicable_models(files.summaries, names),
    )
    save(figure, [snakemake.output.png, snakemake.output.pdf])
