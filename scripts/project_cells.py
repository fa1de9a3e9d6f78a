"""Embed new cells by one fit: an .h5ad and a result in; embedding, transferred labels and scores out."""

from nmfbench.job import job

with job(snakemake) as run:
    from nmfbench.factors.project import project, write_projection
    from nmfbench.tables.files import write_table

    files, outputs = snakemake.input, snakemake.output
    projection = project(
        files.cells,
        files.result,
        record=files.record,
        filtered=files.filtered,
        n_jobs=run.threads,
        **snakemake.params.settings,
    )
    write_projection(projection, outputs.cells)
    write_table(projection.cells.reset_index(), outputs.labels, digits=6)
    write_table(projection.genes, outputs.genes)
    write_table(projection.scores, outputs.scores)
