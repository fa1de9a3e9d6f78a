# One pass over the cells, scattered over shards; what is fitted from it alone.


scattergather:
    shard=cfg.statistics.shards,


rule gather_statistics:
    input:
        filtered="<results>/{dataset}/filtered.h5ad",
    output:
        temp("<results>/{dataset}/statistics/shards/{scatteritem}.h5"),
    log:
        "<logs>/gather_statistics/{dataset}-{scatteritem}.log",
    benchmark:
        "<benchmarks>/gather_statistics/{dataset}-{scatteritem}.tsv"
    conda:
        "../../envs/models.yaml"
    threads: 2
    resources:
        **gpu_resources(memory(2500 + int(cfg.statistics.memory_mb), 0.05), 60, 0.5, gathering_gpus),
    params:
        revision=revision("gather_statistics"),
        settings=cfg.statistics.model_dump(exclude={"shards"}),
        donor_grams=plan.donor_grams,
        normalisation=cfg.normalisation.model_dump(),
        dataset=plan.dataset("condition_columns"),
    script:
        "../../scripts/gather_statistics.py"


rule merge_statistics:
    input:
        shards=shards_of,
    output:
        "<results>/{dataset}/statistics/{part}.h5",
    log:
        "<logs>/merge_statistics/{dataset}-{part}.log",
    benchmark:
        "<benchmarks>/merge_statistics/{dataset}-{part}.tsv"
    wildcard_constraints:
        part="all|fitted|held_out",
    conda:
        "../../envs/models.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(20, 0.01),
    params:
        revision=revision("merge_statistics"),
        shards=lambda wildcards: plan.shards_in(wildcards.part),
    script:
        "../../scripts/merge_statistics.py"


rule select_ranks:
    input:
        fitted="<results>/{dataset}/statistics/fitted.h5",
        held_out="<results>/{dataset}/statistics/held_out.h5",
    output:
        fits="<results>/{dataset}/{model}/rank_selection.tsv",
    log:
        "<logs>/select_ranks/{dataset}-{model}.log",
    benchmark:
        "<benchmarks>/select_ranks/{dataset}-{model}.tsv"
    conda:
        "../../envs/models.yaml"
    threads: 4
    resources:
        **training_resources(fit_memory(n_files=2), 240, 1),
    params:
        revision=revision("select_ranks"),
        kind=lambda wildcards: plan.section(wildcards).kind,
        settings=lambda wildcards: plan.section(wildcards).parameters(),
        sweep=cfg.rank_selection.model_dump(exclude={"models", "held_out_shards", "criterion", "tolerance"}),
        device=plan.device,
    script:
        "../../scripts/select_ranks.py"


rule collect_rank_selection:
    input:
        fits=expand("<results>/{{dataset}}/{model}/rank_selection.tsv", model=cfg.rank_selection.models),
    output:
        fits="<results>/{dataset}/tables/rank_selection_fits.tsv",
        summary=report(
            "<results>/{dataset}/tables/rank_selection.tsv",
            caption="../report/rank_selection_table.rst",
            category="Ranks",
            labels={"dataset": "{dataset}", "table": "objective, stability, held-out errors by rank"},
        ),
    log:
        "<logs>/collect_rank_selection/{dataset}.log",
    localrule: True
    conda:
        "../../envs/evaluation.yaml"
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    params:
        revision=revision("collect_rank_selection"),
        models=cfg.rank_selection.models,
    script:
        "../../scripts/collect_rank_selection.py"


rule plot_rank_selection:
    input:
        fits="<results>/{dataset}/tables/rank_selection_fits.tsv",
        summary="<results>/{dataset}/tables/rank_selection.tsv",
    output:
        png=report(
            "<results>/{dataset}/figures/rank_selection.png",
            caption="../report/rank_selection.rst",
            category="Ranks",
            labels={"dataset": "{dataset}", "figure": "which rank the data support"},
        ),
        pdf="<results>/{dataset}/figures/rank_selection.pdf",
    log:
        "<logs>/plot_rank_selection/{dataset}.log",
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500),
        runtime=minutes(10),
    params:
        revision=revision("plot_rank_selection"),
        display_names=plan.display_names(),
    script:
        "../../scripts/plot_rank_selection.py"
