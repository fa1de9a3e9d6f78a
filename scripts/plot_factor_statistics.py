"""Draw sparsity, norms and cosines of the factors of every model at one rank: tables in; PNG and PDF out."""

from nmfbench.job import job

with job(snakemake):
    from nmfbench.factors.tables import inapplicable_models, read_by_model
    from nmfbench.figures import save
    from nmfbench.figures.factor_statistics import factor_statistics_figure

    names = snakemake.params.display_names
    factors = read_by_model(snakemake.input.factors, names)
    pairs = read_by_model(snakemake.input.pairs, names)
    gone = inapplicable_models(snakemake.input.factors, names)
    figure = factor_statistics_figure(factors, pairs, names, int(snakemake.wildcards.rank), inapplicable=gone)
    save(figure, [snakemake.output.png, snakemake.output.pdf])
