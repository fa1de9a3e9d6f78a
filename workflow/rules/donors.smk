# Donors held out: of the classifiers alone, and of the fits too.


rule classify_held_out_donors:
    input:
        result="<results>/<fit>/result.h5ad",
    output:
        scores="<results>/<fit>/donor_cv/{label}.tsv",
        folds="<results>/<fit>/donor_cv/{label}-folds.tsv",
        counts="<results>/<fit>/donor_cv/{label}-counts.tsv.gz",
    log:
        "<logs>/classify_held_out_donors/<fit>/{label}.log",
    benchmark:
        "<benchmarks>/classify_held_out_donors/<fit>/{label}.tsv"
    conda:
        "../../envs/evaluation.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000, 90),
        runtime=minutes(90, 20),
    params:
        revision=revision("classify_held_out_donors"),
        label=lambda wildcards: cfg.label_paths[wildcards.label],
        donor_cv=cfg.donor_cv.model_dump(exclude={"enabled"}),
    script:
        "../../scripts/classify_held_out_donors.py"


# Sums over the cells of a group of donors: one pass over all cells in all, whatever is fitted without a group.
rule gather_donor_group:
    input:
        filtered="<results>/{dataset}/filtered.h5ad",
    output:
        temp("<results>/{dataset}/statistics/donor-group-{group}.h5"),
    log:
        "<logs>/gather_donor_group/{dataset}-{group}.log",
    benchmark:
        "<benchmarks>/gather_donor_group/{dataset}-{group}.tsv"
    wildcard_constraints:
        group=r"\d+",
    conda:
        "../../envs/models.yaml"
    threads: 2
    resources:
        **gpu_resources(memory(2500 + int(cfg.statistics.memory_mb), 0.05), 60, 0.5, gathering_gpus),
    params:
        revision=revision("gather_donor_group"),
        groups=cfg.donor_transfer.groups,
        settings=cfg.statistics.model_dump(exclude={"shards"}),
        normalisation=cfg.normalisation.model_dump(),
        dataset=plan.dataset("condition_columns"),
    script:
        "../../scripts/gather_donor_group.py"


rule merge_donor_groups:
    input:
        groups=plan.other_groups,
    output:
        temp("<results>/{dataset}/statistics/without-donor-group-{group}.h5"),
    log:
        "<logs>/merge_donor_groups/{dataset}-{group}.log",
    benchmark:
        "<benchmarks>/merge_donor_groups/{dataset}-{group}.tsv"
    wildcard_constraints:
        group=r"\d+",
    conda:
        "../../envs/models.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(20, 0.01),
    params:
        revision=revision("merge_donor_groups"),
        groups=cfg.donor_transfer.groups,
    script:
        "../../scripts/merge_donor_groups.py"


rule transfer_to_donors:
    input:
        filtered="<results>/{dataset}/filtered.h5ad",
        statistics=plan.without_groups,
        patterns=pattern_files,
    output:
        scores="<results>/<fit>/donor_transfer.tsv",
        folds="<results>/<fit>/donor_transfer-folds.tsv",
        counts="<results>/<fit>/donor_transfer-counts.tsv.gz",
    log:
        "<logs>/transfer_to_donors/<fit>.log",
    benchmark:
        "<benchmarks>/transfer_to_donors/<fit>.tsv"
    conda:
        "../../envs/models.yaml"
    threads: 4
    resources:
        **training_resources(memory(4000, 24), 120, 10),
    params:
        revision=revision("transfer_to_donors"),
        trained=lambda wildcards: training_revision(plan.card(wildcards)),
        kind=lambda wildcards: plan.section(wildcards).kind,
        settings=lambda wildcards: plan.section(wildcards).parameters(),
        device=plan.device,
        normalisation=cfg.normalisation.model_dump(),
        dataset=plan.dataset("condition_columns", gene_scaling="none"),
        labels=cfg.donor_labels,
        donor_transfer=cfg.donor_transfer.model_dump(exclude={"enabled", "models"}),
    script:
        "../../scripts/transfer_to_donors.py"


rule collect_donors_held_out:
    input:
        found=plan.held_out_donors,
        folds="<results>/{dataset}/tables/folds.tsv",
    output:
        table=report(
            "<results>/{dataset}/tables/donors_held_out.tsv",
            caption="../report/donors_held_out.rst",
            category="Tables",
            labels={"dataset": "{dataset}", "table": "donors held out", "by": "", "rank": ""},
        ),
        folds="<results>/{dataset}/tables/donor_folds.tsv",
    log:
        "<logs>/collect_donors_held_out/{dataset}.log",
    localrule: True
    conda:
        "../../envs/evaluation.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500),
        runtime=minutes(20),
    params:
        revision=revision("collect_donors_held_out"),
        grid=plan.expected_fits,
        uncertainty=cfg.uncertainty.model_dump(),
        transfer_asked=cfg.donor_transfer.enabled,
    script:
        "../../scripts/collect_donors_held_out.py"


rule plot_donors_held_out:
    input:
        table="<results>/{dataset}/tables/donors_held_out.tsv",
    output:
        png=report(
            "<results>/{dataset}/figures/donors-held-out-rank-{rank}.png",
            caption="../report/donors_held_out_figure.rst",
            category="Scores",
            labels={"dataset": "{dataset}", "rank": "{rank}", "figure": "donors held out"},
        ),
        pdf="<results>/{dataset}/figures/donors-held-out-rank-{rank}.pdf",
    log:
        "<logs>/plot_donors_held_out/{dataset}-rank-{rank}.log",
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500),
        runtime=minutes(10),
    params:
        revision=revision("plot_donors_held_out"),
        rank=lambda wildcards: int(wildcards.rank),
        display_names=plan.display_names(),
    script:
        "../../scripts/plot_donors_held_out.py"
