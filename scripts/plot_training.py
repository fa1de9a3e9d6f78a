"""Draw the training curves of one dataset: history.tsv of every run in; PNG and PDF out."""

from nmfbench.job import job

with job(snakemake):
    import pandas as pd

    from nmfbench.figures import save, training_figure

    runs = snakemake.params.runs
    histories = [
        pd.read_csv(path, sep="\t").assign(model=run["model"], rank=run["rank"], seed=run["seed"])
        for path, run in zip(snakemake.input.histories, runs, strict=True)
    ]
    figure = training_figure(
        pd.concat(histories, ignore_index=True), {run["model"]: run["display_name"] for run in runs}
    )
    save(figure, [snakemake.output.png, snakemake.output.pdf])
