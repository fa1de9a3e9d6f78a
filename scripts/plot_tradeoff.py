"""Draw cell-type scores against donor scores at one rank: scores.tsv and folds.tsv in; PNG and PDF out."""

from nmfbench.job import job

with job(snakemake):
    from nmfbench.figures import save, tradeoff_figure
    from nmfbench.tables.files import read_table

    scores = read_table(snakemake.input.scores, text=["model", "label"])
    folds = read_table(snakemake.input.folds, text=["model", "label"])
    params = snakemake.params
    figure = tradeoff_figure(scores, params.rank, params.display_names, folds=folds, roles=params.roles)
    save(figure, [snakemake.output.png, snakemake.output.pdf])
