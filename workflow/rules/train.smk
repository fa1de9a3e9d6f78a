# One rule for each model, train_{kind}, so that a site can give each its own resources; they share one script.


rule shuffle_cells:
    input:
        filtered="<results>/{dataset}/filtered.h5ad",
    output:
        temp("<results>/{dataset}/shuffled-{order}.h5ad"),
    log:
        "<logs>/shuffle_cells/{dataset}-{order}.log",
    benchmark:
        "<benchmarks>/shuffle_cells/{dataset}-{order}.tsv"
    wildcard_constraints:
        order="by_type|plain",
    conda:
        "../../envs/models.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(30, 0.1),
    params:
        revision=revision("shuffle_cells"),
    script:
        "../../scripts/shuffle_cells.py"


for card in cards().values():

    rule:
        name:
            f"train_{card.kind}"
        input:
            filtered="<results>/{dataset}/filtered.h5ad",
            statistics=plan.statistics,
            shuffled=plan.shuffled,
            patterns=pattern_files,
        output:
            result="<results>/<fit>/result.h5ad",
            history="<results>/<fit>/history.tsv",
            record="<results>/<fit>/run.json",
            files=[f"<results>/<fit>/{name}" for name in card.files],
        log:
            "<logs>/train/<fit>.log",
        benchmark:
            "<benchmarks>/train/<fit>.tsv"
        pathvars:
            fit=plan.fit_of(card.kind),
        group:
            fits_together
        conda:
            f"../../envs/{card.environment}.yaml"
        threads: card.resources.threads
        resources:
            **training_resources(training_memory, card.resources.minutes, card.resources.minutes_per_input)
            | {
                "runtime": training_minutes(card.resources.minutes, card.resources.minutes_per_input),
                "gpu_turn": training_gpus,
            },
        params:
            revision=training_revision(card),
            kind=card.kind,
            settings=lambda wildcards: plan.section(wildcards).parameters(),
            display_name=lambda wildcards: cfg.display_name(wildcards.model),
            device=plan.device,
            normalisation=cfg.normalisation.model_dump(),
            dataset=plan.dataset("condition_columns", gene_scaling="none"),
            placement=cfg.model_dump(include={"out_of_core", "in_memory_mb"}),
            tensorboard=plan.tensorboard,
        script:
            "../../scripts/train_model.py"
