"""Find the consensus of some fits: their results in; result, history, run.json and stability out."""

from nmfbench.job import job

with job(snakemake) as run:
    from nmfbench.factors.consensus_fit import fit_consensus

    files, outputs, params = snakemake.input, snakemake.output, snakemake.params
    fit_consensus(
        files.members,
        files.records,
        files.filtered,
        result=outputs.result,
        history=outputs.history,
        record=outputs.record,
        stability=outputs.stability,
        clustering=outputs.clustering,
        name=snakemake.wildcards.model,
        of=params.of,
        display_name=params.display_name,
        seed=int(snakemake.wildcards.seed),
        settings=params.settings,
        threads=run.threads,
    )
