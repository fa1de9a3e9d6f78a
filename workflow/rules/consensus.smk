# What fits that differ in their seed agree on: a fit of its own, and how stable it is over ranks.

from nmfbench.factors.card import CARD as CONSENSUS


rule train_consensus:
    input:
        members=plan.members("result.h5ad"),
        records=plan.members("run.json"),
        filtered="<results>/{dataset}/filtered.h5ad",
    output:
        result="<results>/<fit>/result.h5ad",
        history="<results>/<fit>/history.tsv",
        record="<results>/<fit>/run.json",
        stability="<results>/<fit>/consensus.tsv",
        clustering="<results>/<fit>/consensus_factors.npz",
    log:
        "<logs>/train/<fit>.log",
    benchmark:
        "<benchmarks>/train/<fit>.tsv"
    pathvars:
        fit=plan.fit_of("consensus"),
    conda:
        "../../envs/models.yaml"
    threads: 2
    resources:
        mem_mb=memory(3000, 2),
        runtime=minutes(60, 0.05),
    params:
        revision=f"train consensus {CONSENSUS.revision}",
        of=lambda wildcards: plan.section(wildcards).of,
        settings=lambda wildcards: plan.section(wildcards).parameters(),
        display_name=lambda wildcards: cfg.display_name(wildcards.model),
    script:
        "../../scripts/train_consensus.py"


rule collect_consensus:
    input:
        stability=lambda wildcards: plan.fits(
            "<results>/<fit>/consensus.tsv", dataset=wildcards.dataset, model=plan.consensus_models()
        ),
    output:
        table=report(
            "<results>/{dataset}/tables/consensus.tsv",
            caption="../report/consensus_table.rst",
            category="Ranks",
            labels={"dataset": "{dataset}", "table": "consensus fits by rank"},
        ),
    log:
        "<logs>/collect_consensus/{dataset}.log",
    localrule: True
    conda:
        "../../envs/evaluation.yaml"
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    params:
        revision=revision("collect_consensus"),
        grid=lambda wildcards: [
            fit for fit in plan.expected_fits(wildcards) if fit["model"] in plan.consensus_models()
        ],
    script:
        "../../scripts/collect_consensus.py"


rule plot_consensus:
    input:
        table="<results>/{dataset}/tables/consensus.tsv",
    output:
        png=report(
            "<results>/{dataset}/figures/consensus.png",
            caption="../report/consensus.rst",
            category="Ranks",
            labels={"dataset": "{dataset}", "figure": "stability against error"},
        ),
        pdf="<results>/{dataset}/figures/consensus.pdf",
    log:
        "<logs>/plot_consensus/{dataset}.log",
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500),
        runtime=minutes(10),
    params:
        revision=revision("plot_consensus"),
        display_names=plan.display_names(),
    script:
        "../../scripts/plot_consensus.py"


rule plot_clustergram:
    input:
        clustering=f"<results>/{plan.first_fit}/consensus_factors.npz",
    output:
        png=report(
            "<results>/{dataset}/figures/{model}/clustergram-rank-{rank}.png",
            caption="../report/clustergram.rst",
            category="Ranks",
            labels={"dataset": "{dataset}", "rank": "{rank}", "figure": "factors of all fits, {model}"},
        ),
        pdf="<results>/{dataset}/figures/{model}/clustergram-rank-{rank}.pdf",
    log:
        "<logs>/plot_clustergram/{dataset}-{model}-rank-{rank}.log",
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500),
        runtime=minutes(10),
    params:
        revision=revision("plot_clustergram"),
        display_name=lambda wildcards: cfg.display_name(wildcards.model),
    script:
        "../../scripts/plot_clustergram.py"
