# From tables to figures. Both formats of a figure are made; the PNG stands in the report.


rule plot_scores:
    input:
        scores="<results>/{dataset}/tables/scores.tsv",
        folds="<results>/{dataset}/tables/folds.tsv",
    output:
        png=report(
            "<results>/{dataset}/figures/scores-rank-{rank}.png",
            caption="../report/scores.rst",
            category="Scores",
            labels={"dataset": "{dataset}", "rank": "{rank}", "figure": "all scores"},
        ),
        pdf="<results>/{dataset}/figures/scores-rank-{rank}.pdf",
    log:
        "<logs>/plot_scores/{dataset}-rank-{rank}.log",
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500),
        runtime=minutes(10),
    params:
        revision=revision("plot_scores"),
        rank=lambda wildcards: int(wildcards.rank),
        display_names=plan.display_names(),
    script:
        "../../scripts/plot_scores.py"


rule plot_tradeoff:
    input:
        scores="<results>/{dataset}/tables/scores.tsv",
        folds="<results>/{dataset}/tables/folds.tsv",
    output:
        png=report(
            "<results>/{dataset}/figures/tradeoff-rank-{rank}.png",
            caption="../report/tradeoff.rst",
            category="Scores",
            labels={"dataset": "{dataset}", "rank": "{rank}", "figure": "cell type against donor"},
        ),
        pdf="<results>/{dataset}/figures/tradeoff-rank-{rank}.pdf",
    log:
        "<logs>/plot_tradeoff/{dataset}-rank-{rank}.log",
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500),
        runtime=minutes(10),
    params:
        revision=revision("plot_tradeoff"),
        rank=lambda wildcards: int(wildcards.rank),
        display_names=plan.display_names(),
        roles=plan.roles(),
    script:
        "../../scripts/plot_tradeoff.py"


rule plot_training:
    input:
        histories=plan.fits_of("<results>/<fit>/history.tsv", "rank"),
        records=plan.fits_of("<results>/<fit>/run.json", "rank"),
    output:
        png=report(
            "<results>/{dataset}/figures/training-rank-{rank}.png",
            caption="../report/training.rst",
            category="Training",
            labels={"dataset": "{dataset}", "rank": "{rank}", "figure": "training curves"},
        ),
        pdf="<results>/{dataset}/figures/training-rank-{rank}.pdf",
    log:
        "<logs>/plot_training/{dataset}-rank-{rank}.log",
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500),
        runtime=minutes(10),
    params:
        revision=revision("plot_training"),
        runs=plan.expected_fits,
    script:
        "../../scripts/plot_training.py"


rule plot_umap:
    input:
        umap=f"<results>/{plan.first_fit}/umap.tsv.gz",
        result=f"<results>/{plan.first_fit}/result.h5ad",
    output:
        png=report(
            "<results>/{dataset}/figures/{model}/umap-rank-{rank}.png",
            caption="../report/umap.rst",
            category="Embeddings",
            labels={"dataset": "{dataset}", "rank": "{rank}", "model": "{model}", "figure": "UMAP"},
        ),
        pdf="<results>/{dataset}/figures/{model}/umap-rank-{rank}.pdf",
    log:
        "<logs>/plot_umap/{dataset}-{model}-rank-{rank}.log",
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000, 10),
        runtime=minutes(20),
    params:
        revision=revision("plot_umap"),
        labels=cfg.labels,
        display_name=lambda wildcards: cfg.display_name(wildcards.model),
    script:
        "../../scripts/plot_umap.py"


rule plot_factors:
    input:
        result=f"<results>/{plan.first_fit}/result.h5ad",
    output:
        png=report(
            "<results>/{dataset}/figures/{model}/factors-rank-{rank}.png",
            caption="../report/factors.rst",
            category="Embeddings",
            labels={
                "dataset": "{dataset}",
                "rank": "{rank}",
                "model": "{model}",
                "figure": "factors by cell type",
            },
        ),
        pdf="<results>/{dataset}/figures/{model}/factors-rank-{rank}.pdf",
    log:
        "<logs>/plot_factors/{dataset}-{model}-rank-{rank}.log",
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000, 10),
        runtime=minutes(20),
    params:
        revision=revision("plot_factors"),
        label="cell_type",
        display_name=lambda wildcards: cfg.display_name(wildcards.model),
    script:
        "../../scripts/plot_factors.py"


rule plot_resources:
    input:
        resources="<results>/{dataset}/tables/resources.tsv",
    output:
        png=report(
            "<results>/{dataset}/figures/resources.png",
            caption="../report/resources.rst",
            category="Resources",
            labels={"dataset": "{dataset}", "figure": "time and memory"},
        ),
        pdf="<results>/{dataset}/figures/resources.pdf",
    log:
        "<logs>/plot_resources/{dataset}.log",
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500),
        runtime=minutes(10),
    params:
        revision=revision("plot_resources"),
        display_names=plan.display_names(),
    script:
        "../../scripts/plot_resources.py"


rule plot_comparison:
    input:
        matches=f"<results>/{COMPARISON}.tsv",
        pairs=f"<results>/{COMPARISON}-pairs.tsv.gz",
    output:
        png=report(
            f"<results>/{COMPARISON}.png",
            caption="../report/comparison.rst",
            category="Comparisons",
            labels={
                "dataset": "{dataset}",
                "first": "{model}, rank {rank}, seed {seed}",
                "second": "{other_model}, rank {other_rank}, seed {other_seed}",
                "what": "heatmap, histogram and scatter",
            },
        ),
        pdf=f"<results>/{COMPARISON}.pdf",
    log:
        f"<logs>/plot_comparison/{COMPARISON}.log",
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500),
        runtime=minutes(10),
    params:
        revision=revision("plot_comparison"),
        names=plan.compared_names,
    script:
        "../../scripts/plot_comparison.py"
