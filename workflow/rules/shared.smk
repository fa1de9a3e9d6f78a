# What fits of a dataset share: the statistics, the shuffled store, and all jobs that no single fit owns.
# Functions only, as in common.smk.

from nmfbench import sharing

FILTERED = "<results>/{dataset}/filtered.h5ad"


# ---- the statistics


@functools.cache
def sharing_of(dataset):
    """Whether the fits of a dataset share one pass over its cells; the same in every job of a run."""
    return sharing.decide(cfg, dataset, workflow.pathvars.apply(FILTERED).format(dataset=dataset))


def fits_from_statistics(dataset, model):
    """Whether the fits of a model begin from the shared statistics of a dataset."""
    return model in sharing.sharers(cfg) and sharing_of(dataset).shared


def shards_in(part):
    """Numbers of the shards of `all` cells, of those `fitted` or `held_out` in a rank selection."""
    n, held_out = cfg.statistics.shards, cfg.rank_selection.held_out_shards
    return {
        "all": list(range(n)),
        "fitted": list(range(n - held_out)),
        "held_out": list(range(max(n - held_out, 0), n)),
    }[part]


def shards_of(wildcards):
    """Shard files of a part of the cells."""
    files = gather.shard("<results>/{{dataset}}/statistics/shards/{scatteritem}.h5")
    return [files[shard] for shard in shards_in(wildcards.part)]


def donor_grams(wildcards):
    """Whether a model with loadings of its own for each donor is fitted from a dataset's statistics."""
    return any(
        section.kind == "cae_nmf2"
        and (name in cfg.rank_selection.models or fits_from_statistics(wildcards.dataset, name))
        for name, section in cfg.models.items()
    )


def shared_statistics(wildcards):
    """The statistics that a fit begins from, where they are gathered once for all fits."""
    if fits_from_statistics(wildcards.dataset, wildcards.model):
        return "<results>/{dataset}/statistics/all.h5"
    return []


# ---- the shuffled store


def expected_nonzeros(dataset):
    """About how many nonzeros a dataset may have, from what is known before any job runs."""
    source = cfg.datasets[dataset]
    if source.simulate is not None:
        return source.simulate.n_cells * min(source.simulate.n_genes, source.simulate.mean_counts)
    file = Path(source.path) if source.path else None
    size = file.stat().st_size if file is not None and file.exists() else source.size or 0
    # 1.7 bytes a nonzero, as well as gzip can: a store too many costs minutes, one too few an error
    return size / 1.7


def out_of_core(dataset):
    """Whether the cells of a dataset are expected to be left on disk."""
    return place(expected_nonzeros(dataset), cfg.out_of_core, cfg.in_memory_mb).out_of_core


def shuffled_store(wildcards):
    """The shuffled store of a fit that may take minibatches out of core."""
    section = cfg.models[wildcards.model]
    gathered = fits_from_statistics(wildcards.dataset, wildcards.model)
    # the Gram matrices of all donors may turn out too large, and model 2 then reads the cells
    if section.solver == "statistics" or (gathered and section.kind != "cae_nmf2"):
        return []
    if not out_of_core(wildcards.dataset):
        return []
    order = "by_type" if section.batches in ("proportional", "round_robin") else "plain"
    return f"<results>/{{dataset}}/shuffled-{order}.h5ad"


# ---- the jobs, for the tables


def needs_of(dataset, model):
    """Files of shared jobs that the fits of a model begin from."""
    needs = [FILTERED]
    if cfg.models[model].kind in ("ae_nmf", "cae_nmf1", "cae_nmf2"):
        asking = SimpleNamespace(dataset=dataset, model=model)
        needs += [file for file in (shared_statistics(asking), shuffled_store(asking)) if file]
    return [workflow.pathvars.apply(file).format(dataset=dataset) for file in needs]


def shared_job(dataset, step, file, needs=(), part="", model=None):
    """One job as nmfbench.tables.shared describes it."""
    words = [word for word in (dataset, model, part) if word]
    return {
        **{"dataset": dataset, "step": step, "part": part, "model": model},
        **{"file": file, "needs": list(needs), "wildcards": "_".join(words)},
        "log": workflow.pathvars.apply(f"<logs>/{step}/{'-'.join(words)}.log"),
        "benchmark": workflow.pathvars.apply(f"<benchmarks>/{step}/{'-'.join(words)}.tsv"),
    }


def shared_jobs(wildcards):
    """The jobs of a dataset that no single fit owns, in the order of the work."""
    dataset, n = wildcards.dataset, cfg.statistics.shards
    folder = workflow.pathvars.apply(f"<results>/{dataset}")
    asked = dict.fromkeys(file for model in cfg.models for file in needs_of(dataset, model))
    swept = cfg.rank_selection.models
    parts = ["all"] * (f"{folder}/statistics/all.h5" in asked) + ["fitted", "held_out"] * bool(swept)
    shards = [f"{folder}/statistics/shards/{number}-of-{n}.h5" for number in range(1, n + 1)]
    merged = {part: f"{folder}/statistics/{part}.h5" for part in parts}
    filtered, source = f"{folder}/filtered.h5ad", f"{folder}/source.h5ad"

    section = cfg.datasets[dataset]
    made_by = "fetch_dataset" if section.url else "simulate_dataset" if section.simulate else None
    jobs = [shared_job(dataset, made_by, source)] if made_by else []
    jobs.append(shared_job(dataset, "filter_donors", filtered, [source] if made_by else []))
    if cfg.integration.metrics:
        jobs.append(shared_job(dataset, "make_reference", f"{folder}/reference.npz", [filtered]))
    for file in shards if parts else []:
        jobs.append(shared_job(dataset, "gather_statistics", file, [filtered], Path(file).stem))
    for part, file in merged.items():
        needs = [shards[shard] for shard in shards_in(part)]
        jobs.append(shared_job(dataset, "merge_statistics", file, needs, part))
    for model in swept:
        needs = [merged["fitted"], merged["held_out"]]
        file = f"{folder}/{model}/rank_selection.tsv"
        jobs.append(shared_job(dataset, "select_ranks", file, needs, model=model))
    for file in asked:
        if Path(file).name.startswith("shuffled-"):
            order = Path(file).stem.removeprefix("shuffled-")
            jobs.append(shared_job(dataset, "shuffle_cells", file, [filtered], order))
    return jobs
