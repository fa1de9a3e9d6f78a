# What the factors of each fit are: their genes, their cells, how they overlap.

from nmfbench.grid import ACROSS


rule describe_factors:
    input:
        filtered="<results>/{dataset}/filtered.h5ad",
        result="<results>/<fit>/result.h5ad",
    output:
        factors="<results>/<fit>/factors.tsv",
        summary="<results>/<fit>/factor_summary.tsv",
        labels="<results>/<fit>/factor_labels.tsv",
        pairs="<results>/<fit>/factor_pairs.tsv.gz",
        top_genes="<results>/<fit>/top_genes.tsv",
        programs="<results>/<fit>/programs.h5ad",
    log:
        "<logs>/describe_factors/<fit>.log",
    benchmark:
        "<benchmarks>/describe_factors/<fit>.tsv"
    conda:
        "../../envs/models.yaml"
    threads: 2
    resources:
        mem_mb=memory(2500),
        runtime=minutes(30, 0.05),
    params:
        revision=revision("describe_factors"),
        labels=cfg.labels,
        n_top_genes=cfg.factors.n_top_genes,
        normalisation=cfg.normalisation.model_dump(),
    script:
        "../../scripts/describe_factors.py"


rule enrich_factors:
    input:
        programs="<results>/<fit>/programs.h5ad",
        gene_sets=local(cfg.factors.enrichment.gene_sets) if cfg.factors.enrichment.gene_sets else [],
    output:
        enrichment="<results>/<fit>/enrichment.tsv.gz",
    log:
        "<logs>/enrich_factors/<fit>.log",
    benchmark:
        "<benchmarks>/enrich_factors/<fit>.tsv"
    conda:
        f"../../envs/{cfg.factors.enrichment.environment}.yaml"
    threads: 2
    resources:
        mem_mb=memory(2000, 4),
        runtime=minutes(120),
    params:
        revision=revision("enrich_factors"),
        settings=cfg.factors.enrichment.model_dump(exclude={"gene_sets"}),
    script:
        "../../scripts/enrich_factors.py"


rule collect_enrichment:
    input:
        enrichment=plan.fits_of("<results>/<fit>/enrichment.tsv.gz"),
        factors=plan.fits_of("<results>/<fit>/factors.tsv"),
    output:
        summary=report(
            "<results>/{dataset}/tables/enrichment_summary.tsv",
            caption="../report/enrichment_summary.rst",
            category="Factors",
            labels={"dataset": "{dataset}", "what": "factors with enriched gene sets"},
        ),
    log:
        "<logs>/collect_enrichment/{dataset}.log",
    localrule: True
    conda:
        "../../envs/evaluation.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500),
        runtime=minutes(10),
    params:
        revision=revision("collect_enrichment"),
        grid=plan.expected_fits,
    script:
        "../../scripts/collect_enrichment.py"


rule plot_enrichment:
    input:
        summary="<results>/{dataset}/tables/enrichment_summary.tsv",
    output:
        png=report(
            "<results>/{dataset}/figures/enrichment-rank-{rank}.png",
            caption="../report/enrichment.rst",
            category="Factors",
            labels={"dataset": "{dataset}", "rank": "{rank}", "what": "enriched gene sets"},
        ),
        pdf="<results>/{dataset}/figures/enrichment-rank-{rank}.pdf",
    log:
        "<logs>/plot_enrichment/{dataset}-rank-{rank}.log",
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500),
        runtime=minutes(10),
    params:
        revision=revision("plot_enrichment"),
        display_names=plan.display_names(),
        seed=cfg.seeds[0],
    script:
        "../../scripts/plot_enrichment.py"


rule render_factor_page:
    input:
        factors="<results>/<fit>/factors.tsv",
        labels="<results>/<fit>/factor_labels.tsv",
        top_genes="<results>/<fit>/top_genes.tsv",
        enrichment="<results>/<fit>/enrichment.tsv.gz" if cfg.factors.enrichment.gene_sets else [],
    output:
        page=report(
            "<results>/<fit>/factors.html",
            caption="../report/factor_page.rst",
            category="Factors",
            labels={"dataset": "{dataset}", "rank": "{rank}", "what": "genes of {model}, seed {seed}"},
        ),
    log:
        "<logs>/render_factor_page/<fit>.log",
    localrule: True
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    params:
        revision=revision("render_factor_page"),
        display_name=lambda wildcards: cfg.display_name(wildcards.model),
    script:
        "../../scripts/render_factor_page.py"


rule collect_factors:
    input:
        factors=plan.fits_of("<results>/<fit>/factors.tsv"),
        summaries=plan.fits_of("<results>/<fit>/factor_summary.tsv"),
    output:
        factors="<results>/{dataset}/tables/factors.tsv",
        summary=report(
            "<results>/{dataset}/tables/factor_summary.tsv",
            caption="../report/factor_summary.rst",
            category="Factors",
            labels={"dataset": "{dataset}", "what": "factors of all fits, a line each"},
        ),
    log:
        "<logs>/collect_factors/{dataset}.log",
    localrule: True
    conda:
        "../../envs/evaluation.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500),
        runtime=minutes(10),
    params:
        revision=revision("collect_factors"),
        grid=plan.expected_fits,
    script:
        "../../scripts/collect_factors.py"


rule compare_programs:
    input:
        first="<results>/<fit>/result.h5ad",
        second="<results>/{other_dataset}/{model}/rank-{rank}/seed-{seed}/result.h5ad",
    output:
        matches=report(
            f"<results>/{ACROSS}.tsv",
            caption="../report/programs_across.rst",
            category="Comparisons",
            labels={
                "dataset": "{dataset}",
                "first": "{model}, rank {rank}, seed {seed}",
                "second": "the same of {other_dataset}",
                "what": "matched programs",
            },
        ),
    log:
        f"<logs>/compare_programs/{ACROSS}.log",
    wildcard_constraints:
        other_dataset="|".join(cfg.datasets),
    conda:
        "../../envs/evaluation.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500, 4),
        runtime=minutes(20, 0.1),
    params:
        revision=revision("compare_programs"),
    script:
        "../../scripts/compare_programs.py"


rule plot_factor_statistics:
    input:
        factors=plan.fits_of(f"<results>/{plan.first_fit}/factors.tsv", "rank"),
        pairs=plan.fits_of(f"<results>/{plan.first_fit}/factor_pairs.tsv.gz", "rank"),
    output:
        png=report(
            "<results>/{dataset}/figures/factor-statistics-rank-{rank}.png",
            caption="../report/factor_statistics.rst",
            category="Factors",
            labels={"dataset": "{dataset}", "rank": "{rank}", "what": "sparsity, norms, cosines"},
        ),
        pdf="<results>/{dataset}/figures/factor-statistics-rank-{rank}.pdf",
    log:
        "<logs>/plot_factor_statistics/{dataset}-rank-{rank}.log",
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500),
        runtime=minutes(10),
    params:
        revision=revision("plot_factor_statistics"),
        display_names=plan.display_names(),
    script:
        "../../scripts/plot_factor_statistics.py"


rule plot_orthogonality:
    input:
        histories=plan.fits_of(f"<results>/{plan.first_fit}/history.tsv", "rank"),
        summaries=plan.fits_of(f"<results>/{plan.first_fit}/factor_summary.tsv", "rank"),
        results=plan.fits_of(f"<results>/{plan.first_fit}/result.h5ad", "rank"),
    output:
        png=report(
            "<results>/{dataset}/figures/orthogonality-rank-{rank}.png",
            caption="../report/orthogonality.rst",
            category="Factors",
            labels={"dataset": "{dataset}", "rank": "{rank}", "what": "objective, orthogonality, agreement"},
        ),
        pdf="<results>/{dataset}/figures/orthogonality-rank-{rank}.pdf",
    log:
        "<logs>/plot_orthogonality/{dataset}-rank-{rank}.log",
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(10),
    params:
        revision=revision("plot_orthogonality"),
        display_names=plan.display_names(),
        reference=cfg.factors.matched_with or next(iter(cfg.models)),
    script:
        "../../scripts/plot_orthogonality.py"
