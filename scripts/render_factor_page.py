"""Make the page of the factors of one fit: its tables in; HTML out."""

from nmfbench.job import job

with job(snakemake):
    from nmfbench.factors.page import factor_page, write_page
    from nmfbench.tables.files import read_table

    files, names = snakemake.input, snakemake.wildcards
    fit = f"{snakemake.params.display_name}, rank {names.rank}, seed {names.seed}"
    sets = getattr(files, "enrichment", None)
    page = factor_page(
        f"Factors of {fit} · {names.dataset}",
        read_table(files.factors),
        read_table(files.labels, text=("label", "class")),
        read_table(files.top_genes, text=("symbol", "ensembl_id", "gene")),
        read_table(sets, text=("set",)) if sets else None,
    )
    write_page(snakemake.output.page, page)
