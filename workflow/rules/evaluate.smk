# From embeddings to scores.


# One exact search for an embedding; clusters, UMAP, classification and integration scores read it.
rule find_neighbours:
    input:
        result="<results>/<fit>/result.h5ad",
    output:
        neighbours="<results>/<fit>/neighbours.npz",
    log:
        "<logs>/find_neighbours/<fit>.log",
    benchmark:
        "<benchmarks>/find_neighbours/<fit>.tsv"
    conda:
        f"../../envs/{'models' if scores_on() else 'evaluation'}.yaml"
    threads: 2
    resources:
        **gpu_resources(memory(1500, 20), 30, 4, lambda wildcards: len(scores_on())),
    params:
        **scores_on(),
        revision=revision("find_neighbours"),
        widths=neighbour_widths(cfg),
    script:
        "../../scripts/find_neighbours.py"


rule cluster_embedding:
    input:
        result="<results>/<fit>/result.h5ad",
        neighbours="<results>/<fit>/neighbours.npz",
    output:
        clusters="<results>/<fit>/clusters.tsv.gz",
    log:
        "<logs>/cluster_embedding/<fit>.log",
    benchmark:
        "<benchmarks>/cluster_embedding/<fit>.tsv"
    conda:
        "../../envs/evaluation.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000, 20),
        runtime=minutes(60, 4),
    params:
        revision=revision("cluster_embedding"),
        clustering=cfg.clustering.settings(),
    script:
        "../../scripts/cluster_embedding.py"


rule score_clusters:
    input:
        clusters="<results>/<fit>/clusters.tsv.gz",
        result="<results>/<fit>/result.h5ad",
    output:
        scores="<results>/<fit>/clustering.tsv",
        counts="<results>/<fit>/cluster_counts.tsv.gz",
    log:
        "<logs>/score_clusters/<fit>.log",
    benchmark:
        "<benchmarks>/score_clusters/<fit>.tsv"
    conda:
        "../../envs/evaluation.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500, 10),
        runtime=minutes(10, 0.1),
    params:
        revision=revision("score_clusters"),
        labels=cfg.labels,
    script:
        "../../scripts/score_clusters.py"


rule classify_embedding:
    input:
        result="<results>/<fit>/result.h5ad",
        neighbours="<results>/<fit>/neighbours.npz",
    output:
        folds="<results>/<fit>/classification/{label}/cv-seed-{cv_seed}.tsv",
        counts="<results>/<fit>/classification/{label}/cv-seed-{cv_seed}-counts.tsv.gz",
    log:
        "<logs>/classify_embedding/<fit>/{label}-cv-seed-{cv_seed}.log",
    benchmark:
        "<benchmarks>/classify_embedding/<fit>/{label}-cv-seed-{cv_seed}.tsv"
    conda:
        f"../../envs/{'models' if classifies_on() else 'evaluation'}.yaml"
    threads: 1
    resources:
        **gpu_resources(memory(2000, 90), 60, 10, lambda wildcards: len(classifies_on())),
    params:
        **classifies_on(),
        revision=revision("classify_embedding"),
        label=lambda wildcards: cfg.label_paths[wildcards.label],
        classification=cfg.classification.model_dump(exclude={"seeds"}),
    script:
        "../../scripts/classify_embedding.py"


rule compute_umap:
    input:
        result="<results>/<fit>/result.h5ad",
        neighbours="<results>/<fit>/neighbours.npz",
    output:
        umap="<results>/<fit>/umap.tsv.gz",
    log:
        "<logs>/compute_umap/<fit>.log",
    benchmark:
        "<benchmarks>/compute_umap/<fit>.tsv"
    conda:
        "../../envs/evaluation.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000, 20),
        runtime=minutes(60),
    params:
        revision=revision("compute_umap"),
        umap=cfg.umap.model_dump(),
        n_neighbours=cfg.clustering.n_neighbours,
    script:
        "../../scripts/compute_umap.py"


# What integration scores compare with: principal components of the unintegrated cells, and of each donor's.
rule make_reference:
    input:
        filtered="<results>/{dataset}/filtered.h5ad",
    output:
        reference="<results>/{dataset}/reference.npz",
    log:
        "<logs>/make_reference/{dataset}.log",
    benchmark:
        "<benchmarks>/make_reference/{dataset}.tsv"
    conda:
        "../../envs/evaluation.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000, 2),
        runtime=minutes(30, 0.1),
    params:
        revision=revision("make_reference"),
    script:
        "../../scripts/make_reference.py"


rule score_integration:
    input:
        result="<results>/<fit>/result.h5ad",
        neighbours="<results>/<fit>/neighbours.npz",
        reference="<results>/{dataset}/reference.npz",
    output:
        scores="<results>/<fit>/integration.tsv",
    log:
        "<logs>/score_integration/<fit>.log",
    benchmark:
        "<benchmarks>/score_integration/<fit>.tsv"
    conda:
        f"../../envs/{cfg.integration.environment}.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000, 10),
        runtime=minutes(30, 2),
    params:
        revision=revision("score_integration"),
        integration=cfg.integration.settings(),
    script:
        "../../scripts/score_integration.py"


rule compare_fits:
    input:
        first="<results>/<fit>/result.h5ad",
        second="<results>/{dataset}/{other_model}/rank-{other_rank}/seed-{other_seed}/result.h5ad",
    output:
        matches=report(
            f"<results>/{COMPARISON}.tsv",
            caption="../report/comparison.rst",
            category="Comparisons",
            labels={
                "dataset": "{dataset}",
                "first": "{model}, rank {rank}, seed {seed}",
                "second": "{other_model}, rank {other_rank}, seed {other_seed}",
                "what": "matched factors",
            },
        ),
        pairs=f"<results>/{COMPARISON}-pairs.tsv.gz",
    log:
        f"<logs>/compare_fits/{COMPARISON}.log",
    conda:
        "../../envs/evaluation.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500, 12),
        runtime=minutes(20, 0.1),
    params:
        revision=revision("compare_fits"),
    script:
        "../../scripts/compare_fits.py"


rule collect_tables:
    input:
        records=plan.fits_of("<results>/<fit>/run.json"),
        clusterings=plan.fits_of("<results>/<fit>/clustering.tsv"),
        integrations=plan.fits_of("<results>/<fit>/integration.tsv") if cfg.integration.metrics else [],
        folds=plan.fits_of("<results>/<fit>/classification/{label}/cv-seed-{cv_seed}.tsv"),
        held_out_donors=plan.held_out_donors,
        held_out_counts=plan.held_out_counts,
        donors="<results>/{dataset}/donors.tsv",
        # not read, but their jobs stand in the tables of resources and of gaps: one that still runs would be a gap
        umaps=plan.fits_of(f"<results>/{plan.first_fit}/umap.tsv.gz"),
        sweeps=[
            *expand(
                "<results>/{{dataset}}/{model}/rank_selection.tsv", model=cfg.rank_selection.by_hidden_genes
            ),
            *expand(
                "<results>/{{dataset}}/{model}/unseen_molecules.tsv",
                model=cfg.rank_selection.by_unseen_molecules,
            ),
        ],
    output:
        clustering=score_tables("clustering_metrics", "clustering (ARI, NMI)"),
        clustering_pages=score_tables("clustering_metrics", "clustering (ARI, NMI)", "html"),
        classification=score_tables("classification_summary", "classification (F1, AUROC ...)"),
        classification_pages=score_tables("classification_summary", "classification (F1, AUROC ...)", "html"),
        scores="<results>/{dataset}/tables/scores.tsv",
        scaled="<results>/{dataset}/tables/scaled_scores.tsv",
        folds="<results>/{dataset}/tables/folds.tsv",
        resources="<results>/{dataset}/tables/resources.tsv",
        resources_page=page("tables/resources.html", "resources", "Resources", "every job"),
        coverage="<results>/{dataset}/tables/coverage.tsv",
        coverage_page=page("tables/coverage.html", "coverage", "Overview", "expected and present"),
        overview="<results>/{dataset}/tables/overview.tsv",
        overview_page=page("tables/overview.html", "overview", "Overview", "overview of the runs"),
        leaderboard="<results>/{dataset}/tables/leaderboard.tsv",
        leaderboard_page=page("tables/leaderboard.html", "leaderboard", "Overview", "leaderboard"),
        headline="<results>/{dataset}/tables/leaderboard.txt",
        donors_page=page("tables/donors.html", "donors", "Data", "donors kept and dropped"),
    log:
        "<logs>/collect_tables/{dataset}.log",
    localrule: True
    conda:
        "../../envs/evaluation.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500),
        runtime=minutes(10),
    params:
        revision=revision("collect_tables"),
        grid=plan.expected_fits,
        jobs=plan.shared_jobs,
        log_patterns=plan.logs,
        benchmark_patterns=plan.benchmarks,
        scheduler_logs=plan.place("<logs>/slurm"),
    script:
        "../../scripts/collect_tables.py"


# How sure the scores are: intervals over training seeds and donors, and differences of models over folds and seeds.
rule estimate_uncertainty:
    input:
        scores="<results>/{dataset}/tables/scores.tsv",
        folds="<results>/{dataset}/tables/folds.tsv",
        clusters=plan.fits_of("<results>/<fit>/cluster_counts.tsv.gz"),
        classes=plan.fits_of("<results>/<fit>/classification/{label}/cv-seed-{cv_seed}-counts.tsv.gz"),
    output:
        intervals=report(
            "<results>/{dataset}/tables/intervals.tsv",
            caption="../report/intervals.rst",
            category="Tables",
            labels={"dataset": "{dataset}", "table": "intervals", "by": "", "rank": ""},
        ),
        comparisons=report(
            "<results>/{dataset}/tables/comparisons.tsv",
            caption="../report/comparisons.rst",
            category="Tables",
            labels={"dataset": "{dataset}", "table": "differences of models", "by": "", "rank": ""},
        ),
    log:
        "<logs>/estimate_uncertainty/{dataset}.log",
    benchmark:
        "<benchmarks>/estimate_uncertainty/{dataset}.tsv"
    conda:
        "../../envs/evaluation.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(120),
    params:
        revision=revision("estimate_uncertainty"),
        grid=plan.expected_fits,
        uncertainty=cfg.uncertainty.model_dump(),
    script:
        "../../scripts/estimate_uncertainty.py"


# The scores of whatever is there already, with its gaps listed: for a run of which a part failed.
rule collect_partial_tables:
    output:
        coverage="<results>/{dataset}/partial_tables/coverage.tsv",
        coverage_page=page("partial_tables/coverage.html", "coverage", "Overview", "expected and present"),
        overview="<results>/{dataset}/partial_tables/overview.tsv",
        overview_page=page("partial_tables/overview.html", "overview", "Overview", "overview of the runs"),
        leaderboard="<results>/{dataset}/partial_tables/leaderboard.tsv",
        leaderboard_page=page("partial_tables/leaderboard.html", "leaderboard", "Overview", "leaderboard"),
        headline="<results>/{dataset}/partial_tables/leaderboard.txt",
        scores="<results>/{dataset}/partial_tables/scores.tsv",
    log:
        "<logs>/collect_partial_tables/{dataset}.log",
    localrule: True
    conda:
        "../../envs/evaluation.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500),
        runtime=minutes(10),
    params:
        revision=revision("collect_tables"),
        grid=plan.expected_fits,
        jobs=plan.shared_jobs,
        log_patterns=plan.logs,
        benchmark_patterns=plan.benchmarks,
        scheduler_logs=plan.place("<logs>/slurm"),
        # so that it is made again when something new is there, or something else failed
        present=plan.present_results,
        logs=plan.ages_of_logs,
    script:
        "../../scripts/collect_tables.py"


rule partial_tables:
    input:
        expand("<results>/{dataset}/partial_tables/coverage.tsv", dataset=cfg.datasets_with("embedding")),
    localrule: True
