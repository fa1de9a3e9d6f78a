"""Compare a variational fit with NUTS on a small panel: filtered counts in; tables, draws, figure out."""

from nmfbench.job import job

with job(snakemake) as run:
    from threadpoolctl import threadpool_limits

    from nmfbench.data import AS_COUNTED, read_filtered
    from nmfbench.data.filtered import load_normalised
    from nmfbench.figures import save
    from nmfbench.figures.posterior_comparison import posterior_comparison_figure
    from nmfbench.models.nb_hierarchical.nuts_comparison import compare_with_nuts, write_nuts
    from nmfbench.tables.files import write_table

    data, asked = read_filtered(snakemake.input.filtered), snakemake.params
    with threadpool_limits(run.threads):
        table, summary, sampled, model = compare_with_nuts(
            load_normalised(data.path, **AS_COUNTED),
            dict(asked.settings),
            dict(asked.nuts),
            asked.seed,
            obs=data.obs,
            var=data.var,
            cell_names=data.obs.index,
            gene_names=data.var.index,
        )
    outputs = snakemake.output
    write_nuts(outputs.draws, sampled, model)
    write_table(table, outputs.table)
    write_table(summary, outputs.summary)
    title = f"{asked.display_name} against NUTS, {len(model.cells_)} cells x {len(model.genes_)} genes"
    save(posterior_comparison_figure(table, summary, title), [outputs.png, outputs.pdf])
