# What models of counts predict: held-out counts beside simple models, predictive checks, a posterior beside NUTS.


rule collect_held_out:
    input:
        held_out=lambda wildcards: [fit["file"] for fit in plan.checked_fits(wildcards, "held_out.tsv")],
        records=lambda wildcards: [fit["file"] for fit in plan.count_fits(wildcards, "run.json")],
    output:
        table=report(
            "<results>/{dataset}/tables/held_out_counts.tsv",
            caption="../report/held_out_counts.rst",
            category="Counts",
            labels={"dataset": "{dataset}", "rank": "all", "what": "held-out counts"},
        ),
    log:
        "<logs>/collect_held_out/{dataset}.log",
    localrule: True
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    params:
        revision=revision("collect_held_out"),
        tables=lambda wildcards: plan.checked_fits(wildcards, "held_out.tsv"),
        records=lambda wildcards: plan.count_fits(wildcards, "run.json"),
    script:
        "../../scripts/collect_held_out.py"


rule plot_count_checks:
    input:
        genes=f"<results>/{plan.first_fit}/gene_checks.tsv",
        cells=f"<results>/{plan.first_fit}/cell_checks.tsv",
        held_out=f"<results>/{plan.first_fit}/held_out.tsv",
    output:
        png=report(
            "<results>/{dataset}/figures/{model}/count-checks-rank-{rank}.png",
            caption="../report/count_checks.rst",
            category="Counts",
            labels={"dataset": "{dataset}", "rank": "{rank}", "what": "predictive checks of {model}"},
        ),
        pdf="<results>/{dataset}/figures/{model}/count-checks-rank-{rank}.pdf",
    log:
        "<logs>/plot_count_checks/{dataset}-{model}-rank-{rank}.log",
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500),
        runtime=minutes(10),
    params:
        revision=revision("plot_count_checks"),
        title=lambda wildcards: f"{cfg.display_name(wildcards.model)}, {wildcards.dataset}",
        colour=lambda wildcards: plan.card(wildcards).colour,
    script:
        "../../scripts/plot_count_checks.py"


rule compare_with_nuts:
    input:
        filtered="<results>/{dataset}/filtered.h5ad",
    output:
        table="<results>/{dataset}/{model}/nuts/advi_vs_nuts.tsv",
        summary="<results>/{dataset}/{model}/nuts/nuts_summary.tsv",
        draws="<results>/{dataset}/{model}/nuts/nuts.nc",
        png=report(
            "<results>/{dataset}/figures/{model}/advi-vs-nuts.png",
            caption="../report/compare_with_nuts.rst",
            category="Counts",
            labels={"dataset": "{dataset}", "rank": "all", "what": "{model} against NUTS"},
        ),
        pdf="<results>/{dataset}/figures/{model}/advi-vs-nuts.pdf",
    log:
        "<logs>/compare_with_nuts/{dataset}-{model}.log",
    benchmark:
        "<benchmarks>/compare_with_nuts/{dataset}-{model}.tsv"
    conda:
        "../../envs/models.yaml"
    threads: 1
    resources:
        mem_mb=memory(3000, 12),
        runtime=minutes(120, 1),
    params:
        revision=revision("compare_with_nuts"),
        settings=lambda wildcards: plan.section(wildcards).parameters(),
        nuts=lambda wildcards: plan.section(wildcards).nuts.model_dump(),
        seed=cfg.seeds[0],
        display_name=lambda wildcards: cfg.display_name(wildcards.model),
    script:
        "../../scripts/compare_with_nuts.py"


# One scale for all models: counts are thinned, each model is fitted once more, and asked about what was set aside.
rule score_held_out_counts:
    input:
        filtered="<results>/{dataset}/filtered.h5ad",
        patterns=pattern_files,
    output:
        score="<results>/<fit>/deviance_explained.tsv",
    log:
        "<logs>/score_held_out_counts/<fit>.log",
    benchmark:
        "<benchmarks>/score_held_out_counts/<fit>.tsv"
    conda:
        lambda wildcards: f"../../envs/{plan.card(wildcards).environment}.yaml"
    threads: 4
    resources:
        **training_resources(memory(4000, 30), 60, 4),
    params:
        revision=revision("score_held_out_counts"),
        trained=lambda wildcards: training_revision(plan.card(wildcards)),
        kind=lambda wildcards: plan.section(wildcards).kind,
        settings=lambda wildcards: plan.section(wildcards).parameters(),
        device=plan.device,
        normalisation=cfg.normalisation.model_dump(),
        dataset=plan.dataset("condition_columns", gene_scaling="none"),
        deviance=cfg.deviance.model_dump(exclude={"enabled"}),
    script:
        "../../scripts/score_held_out_counts.py"


rule collect_deviance:
    input:
        scores=plan.fits_of("<results>/<fit>/deviance_explained.tsv"),
    output:
        table=report(
            "<results>/{dataset}/tables/deviance_explained.tsv",
            caption="../report/deviance_explained.rst",
            category="Counts",
            labels={"dataset": "{dataset}", "rank": "all", "what": "deviance explained"},
        ),
    log:
        "<logs>/collect_deviance/{dataset}.log",
    localrule: True
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    params:
        revision=revision("collect_deviance"),
        fits=lambda wildcards: plan.all_fits(wildcards, "deviance_explained.tsv"),
    script:
        "../../scripts/collect_deviance.py"
