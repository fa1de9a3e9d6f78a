"""Draw the factors of one embedding by a label: result.h5ad in; PNG and PDF out."""

from nmfbench.job import job

with job(snakemake):
    from nmfbench.figures import factor_table, factors_figure, save
    from nmfbench.results import read_embedding

    label = snakemake.params.label
    H, obs = read_embedding(snakemake.input.result, snakemake.wildcards)
    name = snakemake.params.display_name
    if (H < 0).any():  # of a signed embedding, how much a factor says is its absolute value
        H, name = abs(H), f"{name} (absolute values)"
    figure = factors_figure(factor_table(H, obs[label]), name, label)
    save(figure, [snakemake.output.png, snakemake.output.pdf])
