# What the factors of each fit are: their genes, their cells, how they overlap; new cells embedded by them.

PROJECTION = "{dataset}/projections/{projection}/{model}-rank-{rank}-seed-{seed}"


def projecting_fits(dataset, projection):
    """The fits that embed some new cells: those of the first seed."""
    models = cfg.projections[projection].models or list(cfg.models)
    return [
        {"dataset": dataset, "model": model, "rank": rank, "seed": cfg.seeds[0]}
        for model in models
        for rank in cfg.ranks
    ]


def projected_fits(pattern, dataset, projection):
    """A pattern over the fits that embed some new cells."""
    return [pattern.format(projection=projection, **fit) for fit in projecting_fits(dataset, projection)]


def factor_targets():
    """What is made of factors: tables, figures and pages of every dataset, and what the config asks for."""
    figures = ["factor-statistics-rank-{rank}", "orthogonality-rank-{rank}"]
    files = [f"<results>/{{dataset}}/figures/{figure}.png" for figure in figures]
    files += ["<results>/{dataset}/tables/factor_summary.tsv", f"<results>/{FIRST_FIT}/factors.html"]
    files += ["<results>/<fit>/starcat_reference.tsv"] * cfg.factors.starcat_reference
    return [file for pattern in files for file in fits(pattern)] + [
        workflow.pathvars.apply(f"<results>/{asked.dataset}/projections/{name}/scores.tsv")
        for name, asked in cfg.projections.items()
    ]


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


rule export_starcat_reference:
    input:
        programs="<results>/<fit>/programs.h5ad",
    output:
        reference="<results>/<fit>/starcat_reference.tsv",
    log:
        "<logs>/export_starcat_reference/<fit>.log",
    localrule: True
    conda:
        "../../envs/evaluation.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500, 2),
        runtime=minutes(10),
    params:
        code=code("factors/reference.py"),
        n_genes=cfg.factors.n_reference_genes,
    script:
        "../../scripts/export_starcat_reference.py"


rule project_cells:
    input:
        cells=lambda wildcards: cfg.projections[wildcards.projection].path,
        result="<results>/<fit>/result.h5ad",
        record="<results>/<fit>/run.json",
        filtered="<results>/{dataset}/filtered.h5ad",
    output:
        cells=f"<results>/{PROJECTION}.h5ad",
        labels=f"<results>/{PROJECTION}-labels.tsv.gz",
        genes=f"<results>/{PROJECTION}-genes.tsv.gz",
        scores=f"<results>/{PROJECTION}-scores.tsv",
    log:
        f"<logs>/project_cells/{PROJECTION}.log",
    benchmark:
        f"<benchmarks>/project_cells/{PROJECTION}.tsv"
    wildcard_constraints:
        projection="|".join(cfg.projections) or "(?!)",
    conda:
        "../../envs/models.yaml"
    threads: 2
    resources:
        mem_mb=memory(3000, 2),
        runtime=minutes(60, 1),
    params:
        code=code("factors/*.py"),
        settings=lambda wildcards: cfg.projections[wildcards.projection].model_dump(
            include={"matrix", "labels", "n_neighbours"}
        ),
    script:
        "../../scripts/project_cells.py"


rule collect_projections:
    input:
        scores=lambda wildcards: projected_fits(
            f"<results>/{PROJECTION}-scores.tsv", wildcards.dataset, wildcards.projection
        ),
    output:
        scores=report(
            "<results>/{dataset}/projections/{projection}/scores.tsv",
            caption="../report/projection_scores.rst",
            category="New cells",
            labels={"dataset": "{dataset}", "new cells": "{projection}", "table": "transferred labels"},
        ),
    log:
        "<logs>/collect_projections/{dataset}-{projection}.log",
    wildcard_constraints:
        projection="|".join(cfg.projections) or "(?!)",
    localrule: True
    conda:
        "../../envs/evaluation.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500),
        runtime=minutes(10),
    params:
        code=code("factors/tables.py", "tables/files.py"),
        grid=lambda wildcards: projecting_fits(wildcards.dataset, wildcards.projection),
    script:
        "../../scripts/collect_projections.py"


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
