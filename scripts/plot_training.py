"""Draw the training curves of one dataset: history.tsv and run.json of every run in; PNG and PDF out."""

from nmfbench.job import job

with job(snakemake):
    import json
    from pathlib import Path

    import pandas as pd

    from nmfbench.figures import save, training_figure
    from nmfbench.inapplicable import none_applicable, reason_in
    from nmfbench.tables.files import read_table

    histories, gone = [], set()
    for file, record, run in zip(
        snakemake.input.histories, snakemake.input.records, snakemake.params.runs, strict=True
    ):
        if reason_in(record) is not None:
            gone.add(run["model"])
            continue
        scale = json.loads(Path(record).read_text())["normalisation"]
        fitted_to = "normalised" if scale["log1p"] or scale["target_sum"] else "counts"
        which = {key: run[key] for key in ("model", "rank", "seed")}
        histories.append(read_table(file).assign(**which, fitted_to=fitted_to))
    if not histories:
        raise none_applicable(snakemake.input.records)
    figure = training_figure(
        pd.concat(histories, ignore_index=True),
        {run["model"]: run["display_name"] for run in snakemake.params.runs},
        inapplicable=gone,
    )
    save(figure, [snakemake.output.png, snakemake.output.pdf])
