# Which rank the data support, by half of the molecules that the fits have not seen. By hidden genes: statistics.smk.


rule score_unseen_molecules:
    input:
        filtered="<results>/{dataset}/filtered.h5ad",
    output:
        fits="<results>/{dataset}/{model}/unseen_molecules.tsv",
    log:
        "<logs>/score_unseen_molecules/{dataset}-{model}.log",
    benchmark:
        "<benchmarks>/score_unseen_molecules/{dataset}-{model}.tsv"
    conda:
        "../../envs/models.yaml"
    threads: 4
    resources:
        **training_resources(memory(9000, 30), 120, 2),
    params:
        revision=revision("score_unseen_molecules"),
        kind=lambda wildcards: plan.section(wildcards).kind,
        settings=lambda wildcards: plan.section(wildcards).parameters(),
        ranks=cfg.rank_selection.ranks,
        seeds=cfg.rank_selection.seeds,
        normalisation=cfg.normalisation.model_dump(),
        dataset=plan.dataset("gene_scaling"),
        device=plan.device,
    script:
        "../../scripts/score_unseen_molecules.py"


rule collect_unseen_molecules:
    input:
        fits=expand("<results>/{{dataset}}/{model}/unseen_molecules.tsv", model=cfg.rank_selection.models),
    output:
        fits="<results>/{dataset}/tables/unseen_molecules_fits.tsv",
        summary=report(
            "<results>/{dataset}/tables/unseen_molecules.tsv",
            caption="../report/unseen_molecules_table.rst",
            category="Ranks",
            labels={
                "dataset": "{dataset}",
                "table": "error of unseen molecules by rank, and the rank chosen",
            },
        ),
    log:
        "<logs>/collect_unseen_molecules/{dataset}.log",
    localrule: True
    conda:
        "../../envs/evaluation.yaml"
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    params:
        revision=revision("collect_unseen_molecules"),
        models=cfg.rank_selection.models,
        tolerance=cfg.rank_selection.tolerance,
    script:
        "../../scripts/collect_unseen_molecules.py"


rule plot_unseen_molecules:
    input:
        fits="<results>/{dataset}/tables/unseen_molecules_fits.tsv",
        summary="<results>/{dataset}/tables/unseen_molecules.tsv",
    output:
        png=report(
            "<results>/{dataset}/figures/unseen_molecules.png",
            caption="../report/unseen_molecules.rst",
            category="Ranks",
            labels={"dataset": "{dataset}", "figure": "which rank unseen molecules ask for"},
        ),
        pdf="<results>/{dataset}/figures/unseen_molecules.pdf",
    log:
        "<logs>/plot_unseen_molecules/{dataset}.log",
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500),
        runtime=minutes(10),
    params:
        revision=revision("plot_unseen_molecules"),
        tolerance=cfg.rank_selection.tolerance,
        display_names=plan.display_names(),
    script:
        "../../scripts/plot_unseen_molecules.py"
