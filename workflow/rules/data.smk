# From a source to the filtered counts.


rule fetch_dataset:
    output:
        "<results>/{dataset}/source.h5ad",
    log:
        "<logs>/fetch_dataset/{dataset}.log",
    benchmark:
        "<benchmarks>/fetch_dataset/{dataset}.tsv"
    wildcard_constraints:
        dataset=plan.datasets_from("url"),
    localrule: True  # compute nodes often reach no server; where Snakemake runs usually does
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=minutes(600),
    params:
        source=plan.dataset("url", "sha256", "size"),
    script:
        "../../scripts/fetch_dataset.py"


rule simulate_dataset:
    output:
        "<results>/{dataset}/source.h5ad",
    log:
        "<logs>/simulate_dataset/{dataset}.log",
    benchmark:
        "<benchmarks>/simulate_dataset/{dataset}.tsv"
    wildcard_constraints:
        dataset=plan.datasets_from("simulate"),
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(60),
    params:
        revision=revision("simulate_dataset"),
        source=plan.dataset("simulate", "min_cells_per_donor"),
    script:
        "../../scripts/simulate_dataset.py"


rule filter_donors:
    input:
        source=source_file,
    output:
        filtered="<results>/{dataset}/filtered.h5ad",
        donors=report(
            "<results>/{dataset}/donors.tsv",
            caption="../report/donors.rst",
            category="Data",
            labels={"dataset": "{dataset}", "table": "donors kept and dropped"},
        ),
    log:
        "<logs>/filter_donors/{dataset}.log",
    benchmark:
        "<benchmarks>/filter_donors/{dataset}.tsv"
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(20, 0.03),
    params:
        revision=revision("filter_donors"),
        source=state_of_source,
        dataset=plan.dataset(
            "cell_type_column",
            "donor_column",
            "condition_columns",
            "keep_obs",
            "obs_filters",
            "min_cells_per_donor",
            "matrix",
            "genes",
        ),
    script:
        "../../scripts/filter_donors.py"
