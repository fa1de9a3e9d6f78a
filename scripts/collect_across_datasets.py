"""Take the scores of several datasets together: scores.tsv of each in; means, errors and ranks out."""

from nmfbench.job import job

with job(snakemake):
    from nmfbench.tables.across import ranks_over_datasets, scores_across_datasets, scores_by_dataset
    from nmfbench.tables.files import read_table, write_table

    tables = [read_table(path, text=["label"]) for path in snakemake.input.scores]
    by_dataset = scores_by_dataset(tables)
    write_table(by_dataset, snakemake.output.by_dataset)
    write_table(scores_across_datasets(by_dataset, snakemake.params.datasets), snakemake.output.means)
    write_table(ranks_over_datasets(by_dataset, snakemake.params.roles), snakemake.output.ranks)
