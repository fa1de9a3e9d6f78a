# The second task: perturbations that were not seen, predicted and scored (docs/perturbation.md).


rule simulate_screen:
    output:
        source="<results>/{dataset}/source.h5ad",
        vectors="<results>/{dataset}/vectors.csv",
    log:
        "<logs>/simulate_screen/{dataset}.log",
    wildcard_constraints:
        dataset=plan.datasets_from("simulate_screen"),
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(30),
    params:
        revision=revision("simulate_screen"),
        design=lambda wildcards: cfg.datasets[wildcards.dataset].simulate_screen.model_dump(),
    script:
        "../../scripts/simulate_screen.py"


rule join_screen:
    input:
        unpack(screens.pair),
    output:
        source="<results>/{dataset}/source.h5ad",
    log:
        "<logs>/join_screen/{dataset}.log",
    wildcard_constraints:
        dataset="|".join(screens.pairs()) or "(?!)",
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=minutes(60, 0.1),
    params:
        revision=revision("join_screen"),
        column=lambda wildcards: screens.screen(wildcards.dataset)["column"],
        control=lambda wildcards: screens.screen(wildcards.dataset)["control"],
    script:
        "../../scripts/join_screen.py"


rule split_screen:
    input:
        filtered="<results>/{dataset}/filtered.h5ad",
        given=screens.split_file,
    output:
        split=f"{SPLIT_FILES}/split.npz",
        table=f"{SPLIT_FILES}/split.tsv",
        targets=f"{SPLIT_FILES}/targets.csv",
        labels=f"{SPLIT_FILES}/labels.tsv",
        sums=f"{SPLIT_FILES}/sums.npz",
    log:
        "<logs>/split_screen/{dataset}-{split}.log",
    benchmark:
        "<benchmarks>/split_screen/{dataset}-{split}.tsv"
    conda:
        "../../envs/models.yaml"
    threads: 1
    resources:
        mem_mb=memory(3000, 4),
        runtime=minutes(30, 0.1),
    params:
        revision=revision("split_screen"),
        screen=screen_settings,
        split=screens.split,
        target_sum=cfg.perturbation.scorer.target_sum,
    script:
        "../../scripts/split_screen.py"


rule embed_genes:
    input:
        filtered="<results>/{dataset}/filtered.h5ad",
        split=f"{SPLIT_FILES}/split.npz",
        fit=screens.embedding_fit,
        tables=screens.embedding_tables,
    output:
        vectors=f"{SPLIT_FILES}/embeddings/{{embedding}}.npz",
    log:
        "<logs>/embed_genes/{dataset}-{split}-{embedding}.log",
    conda:
        "../../envs/models.yaml"
    threads: 1
    resources:
        mem_mb=memory(3000, 4),
        runtime=minutes(30, 0.1),
    params:
        revision=revision("embed_genes"),
        screen=screen_settings,
        embedding=screens.embedding,
        also=screens.also_list,
    script:
        "../../scripts/embed_genes.py"


for kind in screens.trained_kinds(PREDICTORS):

    rule:
        name:
            f"train_{kind}"
        input:
            sums=f"{SPLIT_FILES}/sums.npz",
            split=f"{SPLIT_FILES}/split.npz",
            vectors=screens.vectors,
            filtered=screens.cells_to_train_on,
        output:
            model=f"<results>/{runs_of(kind)}/model.{'pt' if kind == 'nb_glm' else 'npz'}",
            history=f"<results>/{runs_of(kind)}/history.tsv",
            record=f"<results>/{runs_of(kind)}/run.json",
        log:
            f"<logs>/train_predictor/{RUN}.log",
        benchmark:
            f"<benchmarks>/train_predictor/{RUN}.tsv"
        conda:
            "../../envs/models.yaml"
        threads: 1
        resources:
            **predictor_resources(kind),
        params:
            revision=revision("train_predictor"),
            kind=kind,
            settings=screens.settings,
            device=cfg.device,
            devices=cfg.devices if kind == "nb_glm" else None,
            locks=plan.place("<results>/.devices"),
            also=screens.also_names,
            screen=screen_settings,
        script:
            "../../scripts/train_predictor.py"


rule predict_cells:
    input:
        model=screens.model,
        theirs=screens.predictions_file,
        targets=screens.sampling_list,
        filtered="<results>/{dataset}/filtered.h5ad",
        split=f"{SPLIT_FILES}/split.npz",
    output:
        cells=screens.kept(f"<results>/{RUN}/cells.h5ad", temp),
        profiles=f"<results>/{RUN}/profiles.npz",
    log:
        f"<logs>/predict_cells/{RUN}.log",
    benchmark:
        f"<benchmarks>/predict_cells/{RUN}.tsv"
    conda:
        "../../envs/models.yaml"
    threads: 1
    resources:
        mem_mb=memory(3000, 4),
        runtime=minutes(60, 0.2),
    params:
        revision=revision("predict_cells"),
        screen=screen_settings,
        settings=screens.settings,
        sampling=screens.sampling,
    script:
        "../../scripts/predict_cells.py"


rule score_truth:
    input:
        filtered="<results>/{dataset}/filtered.h5ad",
        split=f"{SPLIT_FILES}/split.npz",
        sums=f"{SPLIT_FILES}/sums.npz",
        made_before=screens.truth_cache,
    output:
        truth=f"{TRUTH}/truth.npz",
        bulk=f"{TRUTH}/ground_truth_bulk.npz",
        metadata=f"{TRUTH}/metadata.json",
        ceiling=f"{TRUTH}/ceiling.tsv",
    log:
        "<logs>/score_truth/{dataset}-{split}.log",
    benchmark:
        "<benchmarks>/score_truth/{dataset}-{split}.tsv"
    conda:
        "../../envs/models.yaml"
    threads: 1
    resources:
        mem_mb=memory(3000, 8),
        runtime=minutes(60, 0.3),
    params:
        revision=revision("score_truth"),
        screen=screen_settings,
        scorer=cfg.perturbation.scorer.model_dump(),
    script:
        "../../scripts/score_truth.py"


rule score_predictions:
    input:
        cells=f"<results>/{RUN}/cells.h5ad",
        profiles=f"<results>/{RUN}/profiles.npz",
        truth=f"{TRUTH}/truth.npz",
    output:
        **({"de": f"<results>/{RUN}/de.tsv.gz"} if cfg.perturbation.scorer.de_table else {}),
        scores=f"<results>/{RUN}/scores.tsv",
        targets=f"<results>/{RUN}/targets.tsv",
        record=f"<results>/{RUN}/metrics.json",
    log:
        f"<logs>/score_predictions/{RUN}.log",
    benchmark:
        f"<benchmarks>/score_predictions/{RUN}.tsv"
    conda:
        "../../envs/models.yaml"
    threads: 1
    resources:
        mem_mb=memory(3000, 8),
        runtime=minutes(60, 0.3),
    params:
        revision=revision("score_predictions"),
        screen=screen_settings,
        scorer=cfg.perturbation.scorer.model_dump(),
    script:
        "../../scripts/score_predictions.py"


rule collect_perturbation_tables:
    input:
        scores=screens.files(f"<results>/{RUN}/scores.tsv"),
        ceilings=screens.split_files(f"{TRUTH}/ceiling.tsv"),
    output:
        scores="<results>/{dataset}/tables/perturbation_scores.tsv",
        targets="<results>/{dataset}/tables/perturbation_targets.tsv",
        seeds="<results>/{dataset}/tables/perturbation_seeds.tsv",
        differences="<results>/{dataset}/tables/perturbation_differences.tsv",
        coverage=report(
            "<results>/{dataset}/tables/perturbation_coverage.tsv",
            caption="../report/perturbation_coverage.rst",
            category="Perturbation",
            labels={"dataset": "{dataset}", "table": "expected and present"},
        ),
        summaries=[
            report(
                f"<results>/{{dataset}}/tables/perturbation_summary_{split}.csv",
                caption="../report/perturbation_summary.rst",
                category="Perturbation",
                labels={"dataset": "{dataset}", "table": f"scores, split {split}"},
            )
            for split in cfg.perturbation.splits
        ],
        # what the report begins with
        front=[
            f"<results>/{{dataset}}/tables/perturbation_front_{split}.{suffix}"
            for split in cfg.perturbation.splits
            for suffix in ("tsv", "txt")
        ],
    log:
        "<logs>/collect_perturbation_tables/{dataset}.log",
    localrule: True
    conda:
        "../../envs/evaluation.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500),
        runtime=minutes(10),
    params:
        revision=revision("collect_perturbation_tables"),
        grid=screens.grid,
        bootstrap=cfg.perturbation.scorer.bootstrap,
        scheduler_logs=plan.place("<logs>/slurm"),
    script:
        "../../scripts/collect_perturbation_tables.py"


# The same of whatever is there already: a run that failed is a gap with its reason.
use rule collect_perturbation_tables as collect_perturbation_partial_tables with:
    input:
        [],
    output:
        scores="<results>/{dataset}/partial_tables/perturbation_scores.tsv",
        coverage="<results>/{dataset}/partial_tables/perturbation_coverage.tsv",
    log:
        "<logs>/collect_perturbation_partial_tables/{dataset}.log",
    params:
        revision=revision("collect_perturbation_tables"),
        grid=screens.grid,
        bootstrap=cfg.perturbation.scorer.bootstrap,
        scheduler_logs=plan.place("<logs>/slurm"),
        # so that it is made again when something new is there
        present=screens.ages,


rule plot_perturbation:
    input:
        scores="<results>/{dataset}/tables/perturbation_scores.tsv",
        targets="<results>/{dataset}/tables/perturbation_targets.tsv",
    output:
        png=report(
            "<results>/{dataset}/figures/perturbation-{figure}-{split}.png",
            caption="../report/perturbation_figure.rst",
            category="Perturbation",
            labels={"dataset": "{dataset}", "split": "{split}", "figure": "{figure}"},
        ),
        pdf="<results>/{dataset}/figures/perturbation-{figure}-{split}.pdf",
    log:
        "<logs>/plot_perturbation/{dataset}-{figure}-{split}.log",
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500),
        runtime=minutes(10),
    params:
        revision=revision("plot_perturbation"),
        names=screens.display_names(),
    script:
        "../../scripts/plot_perturbation.py"


# ---- targets


# Cells of every run, without a score.
rule perturbation_predictions:
    input:
        screens.every(f"<results>/{RUN}/cells.h5ad"),
    localrule: True


# Cells of the list `perturbation.predict_also`, drawn after a fit to all targets.
rule perturbation_submission:
    input:
        screens.submission(f"<results>/{RUN}/cells.h5ad"),
    localrule: True


rule perturbation_partial_tables:
    input:
        expand(
            "<results>/{dataset}/partial_tables/perturbation_coverage.tsv",
            dataset=cfg.datasets_with("perturbation"),
        ),
    localrule: True
