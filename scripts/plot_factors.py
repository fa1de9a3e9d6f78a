"""Draw the factors of one embedding by a label: result.h5ad in; PNG and PDF out."""

from nmfbench.job import job

with job(snakemake):
    from nmfbench.figures import factor_table, factors_figure, save
    from nmfbench.results import read_embedding

    label = snakemake.params.label
    H, obs = read_embedding(snakemake.input.result, snakemake.wildcards)
    figure = factors_figure(factor_table(H, obs[label]), snakemake.params.display_name, label)
    save(figure, [snakemake.output.png, snakemake.output.pdf])
