"""Draw the scores of one split: tables in; PNG and PDF of each figure out."""

from nmfbench.job import job

with job(snakemake):
    from nmfbench.figures import save
    from nmfbench.perturbation.figures import FIGURES
    from nmfbench.tables.files import read_table

    smk = snakemake
    tables = {name: read_table(path) for name, path in smk.input.items()}
    figure = FIGURES[smk.wildcards.figure](tables, smk.wildcards.split, smk.params.names)
    save(figure, [smk.output.png, smk.output.pdf])
