# One rule for each model, so that a site can give each its own resources; they share one script.

TRAINING_CODE = [
    *("train.py", "results.py", "linalg.py", "compiled.py", "device.py", "tensorboard.py"),
    "data/filtered.py",
    "fitting/*.py",
    "rows/*.py",
    "models/*.py",
]
AUTOENCODER_CODE = [
    *TRAINING_CODE,
    "gram.py",
    "statistics/*.py",
    *[
        f"models/autoencoder/{name}.py"
        for name in (
            *("conditional", "costs", "embed", "estimator", "from_cells", "from_statistics", "minibatch"),
            *("penalties", "solver_choice", "exact/*"),
        )
    ],
]
BAYESIAN_CODE = [
    *TRAINING_CODE,
    "data/held_out.py",
    "models/bayesian/[!p]*.py",
    *[f"models/bayesian/{name}.py" for name in ("parameters", "posterior", "prior")],
]
PNMF_CODE = [*TRAINING_CODE, "models/pnmf/*.py"]


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
        code=code("rows/shuffle.py", "rows/shuffled.py", "data/filtered.py", "data/writer.py"),
    script:
        "../../scripts/shuffle_cells.py"


rule train_base_nmf:
    input:
        filtered="<results>/{dataset}/filtered.h5ad",
    output:
        result="<results>/<fit>/result.h5ad",
        history="<results>/<fit>/history.tsv",
        record="<results>/<fit>/run.json",
    log:
        "<logs>/train/<fit>.log",
    benchmark:
        "<benchmarks>/train/<fit>.tsv"
    pathvars:
        fit=fit_of("base_nmf"),
    conda:
        "../../envs/models.yaml"
    threads: 4
    resources:
        **training_resources(memory(3000, 12)),
    params:
        code=code(*TRAINING_CODE, "models/base_nmf/*.py"),
        kind=model_kind,
        settings=model_settings,
        display_name=model_display_name,
        device=model_device,
        normalisation=cfg.normalisation.model_dump(),
        dataset=dataset_settings("condition_columns"),
        placement=cfg.model_dump(include={"out_of_core", "in_memory_mb"}),
        tensorboard=tensorboard_settings,
    script:
        "../../scripts/train_model.py"


use rule train_base_nmf as train_ae_nmf with:
    input:
        filtered="<results>/{dataset}/filtered.h5ad",
        statistics=shared_statistics,
        shuffled=shuffled_store,
    pathvars:
        fit=fit_of("ae_nmf"),
    resources:
        **training_resources(train_memory(9000, 12)),  # room for gram_memory_mb
    params:
        code=code(*AUTOENCODER_CODE, "models/autoencoder/ae_nmf.py"),


use rule train_ae_nmf as train_cae_nmf1 with:
    pathvars:
        fit=fit_of("cae_nmf1"),
    params:
        code=code(*AUTOENCODER_CODE, "models/autoencoder/cae_nmf1.py"),


use rule train_ae_nmf as train_cae_nmf2 with:
    pathvars:
        fit=fit_of("cae_nmf2"),
    params:
        code=code(*AUTOENCODER_CODE, "models/autoencoder/cae_nmf2.py"),


use rule train_base_nmf as train_pyro_gamma_nb with:
    input:
        filtered="<results>/{dataset}/filtered.h5ad",
        patterns=pattern_files,
    pathvars:
        fit=fit_of("pyro_gamma_nb"),
    resources:
        # the counts by cell and by gene, and those set aside
        **training_resources(memory(4000, 40), 60, 4),
    params:
        code=code(*BAYESIAN_CODE, "models/bayesian/pyro_gamma_nb.py"),


use rule train_pyro_gamma_nb as train_pyro_exponential with:
    pathvars:
        fit=fit_of("pyro_exponential"),
    params:
        code=code(*BAYESIAN_CODE, "models/bayesian/pyro_exponential.py"),


use rule train_base_nmf as train_pnmf with:
    pathvars:
        fit=fit_of("pnmf"),
    resources:
        **training_resources(memory(3000, 24), 60, 4),  # the counts by cell and by gene
    params:
        code=code(*PNMF_CODE),


use rule train_pnmf as train_pnmf_donor with:
    pathvars:
        fit=fit_of("pnmf_donor"),


use rule train_pnmf as train_pnmf_spatial with:
    pathvars:
        fit=fit_of("pnmf_spatial"),
    params:
        code=code(*PNMF_CODE, "models/pnmf/spatial/*.py"),
