# What the factors of each fit are: their genes, their cells, how they overlap.


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
        code=code("factors/*.py"),
        labels=cfg.labels,
        n_top_genes=cfg.factors.n_top_genes,
        normalisation=cfg.normalisation.model_dump(),
    script:
        "../../scripts/describe_factors.py"


rule render_factor_page:
    input:
        factors="<results>/<fit>/factors.tsv",
        labels="<results>/<fit>/factor_labels.tsv",
        top_genes="<results>/<fit>/top_genes.tsv",
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
        code=code("factors/page.*"),
        display_name=model_display_name,
    script:
        "../../scripts/render_factor_page.py"


rule collect_factors:
    input:
        factors=fits_of("<results>/<fit>/factors.tsv"),
        summaries=fits_of("<results>/<fit>/factor_summary.tsv"),
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
        code=code("factors/tables.py", "tables/files.py"),
        grid=expected_fits,
    script:
        "../../scripts/collect_factors.py"


rule plot_factor_statistics:
    input:
        factors=fits_of(f"<results>/{FIRST_FIT}/factors.tsv", "rank"),
        pairs=fits_of(f"<results>/{FIRST_FIT}/factor_pairs.tsv.gz", "rank"),
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
        code=code("figures/factor_statistics.py", "figures/style.py", "figures/palette.py"),
        display_names=display_names(),
    script:
        "../../scripts/plot_factor_statistics.py"


rule plot_orthogonality:
    input:
        histories=fits_of(f"<results>/{FIRST_FIT}/history.tsv", "rank"),
        summaries=fits_of(f"<results>/{FIRST_FIT}/factor_summary.tsv", "rank"),
        results=fits_of(f"<results>/{FIRST_FIT}/result.h5ad", "rank"),
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
        code=code("figures/orthogonality.py", "metrics/matching.py", "figures/style.py", "figures/palette.py"),
        display_names=display_names(),
        reference=cfg.factors.matched_with or next(iter(cfg.models)),
    script:
        "../../scripts/plot_orthogonality.py"
