"""Count the factors with enriched gene sets of every fit: tables in; one table out."""

from nmfbench.job import job

with job(snakemake):
    import pandas as pd

    from nmfbench.factors.enrichment import count_enriched
    from nmfbench.factors.tables import RUN
    from nmfbench.inapplicable import none_applicable, reason_in
    from nmfbench.tables.files import read_table, write_table

    files = zip(snakemake.params.grid, snakemake.input.enrichment, snakemake.input.factors, strict=True)
    rows = [
        {key: fit[key] for key in RUN}
        | count_enriched(read_table(enrichment, text=("set", "leading_genes")), len(read_table(factors)))
        for fit, enrichment, factors in files
        if reason_in(enrichment) is None
    ]
    if not rows:
        raise none_applicable(snakemake.input.enrichment)
    write_table(pd.DataFrame(rows), snakemake.output.summary)
