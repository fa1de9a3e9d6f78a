# New cells embedded by fits that are there, with labels transferred; fits in the form that starCAT reads.


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
        revision=revision("export_starcat_reference"),
        n_genes=cfg.factors.n_reference_genes,
    script:
        "../../scripts/export_starcat_reference.py"


rule project_cells:
    input:
        cells=lambda wildcards: local(cfg.projections[wildcards.projection].path),
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
        revision=revision("project_cells"),
        settings=lambda wildcards: cfg.projections[wildcards.projection].model_dump(
            include={"matrix", "labels", "n_neighbours"}
        ),
    script:
        "../../scripts/project_cells.py"


rule collect_projections:
    input:
        scores=plan.projected_fits(f"<results>/{PROJECTION}-scores.tsv"),
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
        revision=revision("collect_projections"),
        grid=plan.projecting_fits,
    script:
        "../../scripts/collect_projections.py"
