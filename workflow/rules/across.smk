# Several datasets as one benchmark, beside the tables and figures of each.


rule collect_across_datasets:
    input:
        scores=expand("<results>/{dataset}/tables/scores.tsv", dataset=cfg.datasets_with("embedding")),
    output:
        by_dataset="<results>/across_datasets/tables/scores_by_dataset.tsv",
        means=report(
            "<results>/across_datasets/tables/scores_across_datasets.tsv",
            caption="../report/scores_across_datasets.rst",
            category="Datasets",
            labels={"what": "mean over datasets", "by": "all", "rank": "all"},
        ),
        ranks=report(
            "<results>/across_datasets/tables/ranks_over_datasets.tsv",
            caption="../report/ranks_over_datasets.rst",
            category="Datasets",
            labels={"what": "ranks over datasets", "by": "all", "rank": "all"},
        ),
    log:
        "<logs>/collect_across_datasets.log",
    localrule: True
    conda:
        "../../envs/evaluation.yaml"
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    params:
        revision=revision("collect_across_datasets"),
        datasets=cfg.datasets_with("embedding"),
        roles=plan.roles(),
    script:
        "../../scripts/collect_across_datasets.py"


rule plot_across_datasets:
    input:
        means="<results>/across_datasets/tables/scores_across_datasets.tsv",
        by_dataset="<results>/across_datasets/tables/scores_by_dataset.tsv",
    output:
        png=report(
            "<results>/across_datasets/figures/scores-by-{label}-rank-{rank}.png",
            caption="../report/across_datasets.rst",
            category="Datasets",
            labels={"what": "scores over datasets", "by": "{label}", "rank": "{rank}"},
        ),
        pdf="<results>/across_datasets/figures/scores-by-{label}-rank-{rank}.pdf",
    log:
        "<logs>/plot_across_datasets/{label}-rank-{rank}.log",
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500),
        runtime=minutes(10),
    params:
        revision=revision("plot_across_datasets"),
        rank=lambda wildcards: int(wildcards.rank),
        label=lambda wildcards: cfg.label_paths[wildcards.label],
        display_names=plan.display_names(),
    script:
        "../../scripts/plot_across_datasets.py"


rule plot_critical_differences:
    input:
        ranks="<results>/across_datasets/tables/ranks_over_datasets.tsv",
    output:
        png=report(
            "<results>/across_datasets/figures/critical-differences-by-{label}-rank-{rank}.png",
            caption="../report/critical_differences.rst",
            category="Datasets",
            labels={"what": "which models differ", "by": "{label}", "rank": "{rank}"},
        ),
        pdf="<results>/across_datasets/figures/critical-differences-by-{label}-rank-{rank}.pdf",
    log:
        "<logs>/plot_critical_differences/{label}-rank-{rank}.log",
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500),
        runtime=minutes(10),
    params:
        revision=revision("plot_critical_differences"),
        rank=lambda wildcards: int(wildcards.rank),
        label=lambda wildcards: cfg.label_paths[wildcards.label],
        display_names=plan.display_names(),
    script:
        "../../scripts/plot_critical_differences.py"
