"""Fit without each group of donors and predict labels in it: counts in; scores, folds and counts out."""

from nmfbench.job import job

with job(snakemake) as run:
    from pathlib import Path

    from nmfbench.donor_transfer import transfer_to_donors
    from nmfbench.tables.files import write_table

    smk = snakemake
    tables = transfer_to_donors(
        smk.input.filtered,
        kind=smk.params.kind,
        settings=smk.params.settings,
        rank=int(smk.wildcards.rank),
        seed=int(smk.wildcards.seed),
        device=smk.params.device,
        normalisation=smk.params.normalisation,
        condition_columns=smk.params.dataset["condition_columns"],
        gene_scaling=smk.params.dataset.get("gene_scaling", "none"),
        labels=smk.params.labels,
        asked=smk.params.donor_transfer,
        statistics=list(getattr(smk.input, "statistics", None) or []),
        scratch=Path(smk.output.scores).parent / "donor_transfer_checkpoint",
        run=run,
    ).frames()
    for name, table in zip(("scores", "folds", "counts"), tables, strict=True):
        write_table(table, smk.output[name])
