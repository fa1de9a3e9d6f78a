"""Draw the scores of one dataset and rank: scores.tsv and folds.tsv in; PNG and PDF out."""

from nmfbench.job import job

with job(snakemake):
    import pandas as pd

    from nmfbench.figures import save, scores_figure

    scores = pd.read_csv(snakemake.input.scores, sep="\t", dtype={"model": str, "label": str})
    folds = pd.read_csv(snakemake.input.folds, sep="\t", dtype={"model": str, "label": str})
    figure = scores_figure(scores, snakemake.params.rank, snakemake.params.display_names, folds=folds)
    save(figure, [snakemake.output.png, snakemake.output.pdf])
