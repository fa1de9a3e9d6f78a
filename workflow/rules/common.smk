# Config, grid, inputs and parameters for the rules. Functions only; the rules are in the other files.

import functools
import hashlib
import os
import re
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

REPOSITORY = Path(workflow.basedir).parent
sys.path.append(str(REPOSITORY / "scripts"))

from nmfbench import manifest, terminal
from nmfbench.config import load_config
from nmfbench.config.files import check_files
from nmfbench.data.size import require_ranks
from nmfbench.data.source import source_state
from nmfbench.errors import InputError, unwritable
from nmfbench.metrics.neighbours import neighbour_widths
from nmfbench.models import MODELS
from nmfbench.rows.opening import place

try:
    check_files(workflow.configfiles)
    cfg = load_config(config, where=", ".join(map(str, workflow.configfiles)) or "--config")
except InputError as error:
    raise WorkflowError(str(error)) from None


# ---- names


wildcard_constraints:
    dataset="|".join(cfg.datasets),
    model="|".join(cfg.models),
    label="|".join(map(re.escape, cfg.label_paths)),
    rank=r"\d+",
    seed=r"\d+",
    other_model="|".join(cfg.models),
    other_rank=r"\d+",
    other_seed=r"\d+",
    cv_seed=r"\d+",


def fit_of(kind):
    """Folder of a fit, for the models of one kind only (it matches nothing when there are none)."""
    names = "|".join(name for name, model in cfg.models.items() if model.kind == kind) or "(?!)"
    return f"{{dataset}}/{{model,{names}}}/rank-{{rank}}/seed-{{seed}}"


def datasets_from(source):
    """Names of the datasets that come from `url` or `simulate`, as a wildcard constraint."""
    names = [name for name, dataset in cfg.datasets.items() if getattr(dataset, source) is not None]
    return "|".join(names) or "(?!)"


def code(*patterns):
    """Digest of the package files that a rule's result depends on: as a parameter, an edit re-runs the rule."""
    package = REPOSITORY / "scripts" / "nmfbench"
    files = sorted(path for pattern in patterns for path in package.glob(pattern))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


# ---- inputs


def source_file(wildcards):
    """The .h5ad a dataset starts from: the person's own file, or the one we download or simulate."""
    return cfg.datasets[wildcards.dataset].path or f"<results>/{wildcards.dataset}/source.h5ad"


def fits(pattern, **fixed):
    """Expand a pattern over the grid of fits, with some of its wildcards fixed or widened."""
    grid = {"dataset": list(cfg.datasets), "model": list(cfg.models), "rank": cfg.ranks, "seed": cfg.seeds}
    return expand(
        workflow.pathvars.apply(pattern),
        **{**grid, "label": list(cfg.label_paths), "cv_seed": cfg.classification.seeds, **fixed},
    )


def fits_of(pattern, *given):
    """An input function: the pattern over the fits of the job's dataset; wildcards named here are the job's."""
    return lambda wildcards: fits(
        pattern, dataset=wildcards.dataset, **{key: wildcards[key] for key in given}
    )


# What is drawn for one fit is drawn for the first training seed.
FIRST_FIT = f"{{dataset}}/{{model}}/rank-{{rank}}/seed-{cfg.seeds[0]}"


# Two fits whose factors are matched; names of models have no hyphen, so the parts stay apart.
COMPARISON = (
    "{dataset}/comparisons/{model}-rank-{rank}-seed-{seed}"
    "-with-{other_model}-rank-{other_rank}-seed-{other_seed}"
)


def compared_fits(pattern):
    """Expand a pattern over the comparisons that the config asks for, in every dataset."""
    return [
        workflow.pathvars.apply(pattern).format(
            dataset=dataset,
            **first._asdict(),
            **{f"other_{key}": value for key, value in second._asdict().items()},
        )
        for dataset in cfg.datasets
        for first, second in cfg.compared_fits()
    ]


def targets():
    """Everything the benchmark makes: tables and figures of every dataset."""
    tables = ["leaderboard", "scores", "folds", "resources", "coverage", "intervals", "comparisons"]
    figures = ["scores-rank-{rank}", "tradeoff-rank-{rank}", "training-rank-{rank}", "resources"]
    figures += ["{model}/umap-rank-{rank}", "{model}/factors-rank-{rank}"]
    files = fits("<results>/{dataset}/tables/clustering_metrics_by_{label}_k{rank}.csv")
    files += fits("<results>/{dataset}/tables/classification_summary_by_{label}_k{rank}.csv")
    for table in tables:
        files += fits(f"<results>/{{dataset}}/tables/{table}.tsv")
    for figure in figures:
        files += fits(f"<results>/{{dataset}}/figures/{figure}.png")
    files += factor_targets()
    files += compared_fits(f"<results>/{COMPARISON}.tsv")
    files += compared_fits(f"<results>/{COMPARISON}.png")
    if cfg.rank_selection.models:
        files += fits("<results>/{dataset}/tables/rank_selection.tsv")
        files += fits("<results>/{dataset}/figures/rank_selection.png")
    return sorted(set(files))


in_report = report  # at the beginning of a line, `report` is a keyword of Snakemake's


def score_tables(name, table, suffix="csv"):
    """The published tables of one kind of score, for each label and rank: as CSVs, or as pages to be read."""
    return [
        in_report(
            f"<results>/{{dataset}}/tables/{name}_by_{path}_k{rank}.{suffix}",
            caption=f"../report/{name.split('_')[0]}_csv.rst",
            category="Tables",
            labels={
                **{"dataset": "{dataset}", "table": table, "by": label, "rank": str(rank)},
                "as": {"csv": "CSV", "html": "page"}[suffix],
            },
        )
        for path, label in cfg.label_paths.items()
        for rank in cfg.ranks
    ]


def page(file, caption, category, table):
    """A page of a dataset's report."""
    labels = {"dataset": "{dataset}", "table": table}
    return in_report(
        f"<results>/{{dataset}}/{file}", caption=f"../report/{caption}.rst", category=category, labels=labels
    )


# ---- parameters: only what changes the result


def dataset_settings(*keys):
    """A function that gives some keys of a dataset's section to a rule."""
    return lambda wildcards: cfg.datasets[wildcards.dataset].model_dump(include=set(keys))


def state_of_source(wildcards):
    """What tells a person's own file from another under its name, older ones included; None for those we make."""
    dataset = cfg.datasets[wildcards.dataset]
    if dataset.path is None:
        return None
    try:
        require_ranks(dataset.path, dataset.matrix.source, cfg.ranks)
    except InputError as error:
        raise WorkflowError(str(error)) from None
    return source_state(dataset.path)


def model_settings(wildcards):
    """The section of a model, without the keys that are not its estimator's."""
    return cfg.models[wildcards.model].model_dump(exclude={"kind", "display_name", "training"})


def model_kind(wildcards):
    """Which of the registered models a name in the config stands for."""
    return cfg.models[wildcards.model].kind


def pattern_files(wildcards):
    """Tables of constant patterns that a model's section names."""
    return cfg.models[wildcards.model].pattern_files()


def model_display_name(wildcards):
    """Name of a model in figures and CSVs."""
    return cfg.display_name(wildcards.model)


def model_device(wildcards):
    """Where a model trains: one that cannot use a GPU, such as scikit-learn's NMF, always on the CPU."""
    return cfg.device if MODELS[model_kind(wildcards)].uses_gpu else "cpu"


def compared_names(wildcards):
    """What the two fits of a comparison are called in its figure."""
    return [
        f"{cfg.display_name(model)}, rank {rank}, seed {seed}"
        for model, rank, seed in (
            (wildcards.model, wildcards.rank, wildcards.seed),
            (wildcards.other_model, wildcards.other_rank, wildcards.other_seed),
        )
    ]


def tensorboard_settings(wildcards):
    """Where and how the event files of a fit are written; None when they are off."""
    if not cfg.tensorboard.enabled:
        return None
    folder = workflow.pathvars.apply("<logs>/tensorboard/{dataset}/{model}/rank-{rank}/seed-{seed}")
    settings = cfg.tensorboard.model_dump(exclude={"enabled"})
    return {"folder": folder.format(**wildcards), **settings}


def display_names():
    """Name in figures and CSVs of every model, in the order of the config."""
    return {name: cfg.display_name(name) for name in cfg.models}


def step_patterns(folder, suffix):
    """Path of the log or benchmark file of each step, with the wildcards left in."""
    steps = {
        step: "<fit>"
        for step in (
            "train",
            "find_neighbours",
            "cluster_embedding",
            "score_clusters",
            "score_integration",
            "compute_umap",
        )
    }
    steps["classify_embedding"] = "<fit>/{label}-cv-seed-{cv_seed}"
    return {step: workflow.pathvars.apply(f"{folder}/{step}/{fit}.{suffix}") for step, fit in steps.items()}


def expected_fits(wildcards):
    """The fits that the tables of a dataset expect, in the order of the config; at one rank if there is a wildcard."""
    ranks = [int(wildcards.rank)] if hasattr(wildcards, "rank") else cfg.ranks
    return [
        {
            "dataset": wildcards.dataset,
            "model": model,
            "kind": cfg.models[model].kind,
            "display_name": cfg.display_name(model),
            "rank": rank,
            "seed": seed,
            "labels": cfg.labels,
            "cv_seeds": cfg.classification.seeds,
            "leiden_seeds": cfg.clustering.seeds,
            "n_folds": cfg.classification.n_folds,
            "classifiers": cfg.classification.classifiers,
            "integration": cfg.integration.metrics,
            "umap": seed == cfg.seeds[0],
            "needs": needs_of(wildcards.dataset, model),
        }
        for model in cfg.models
        for rank in ranks
        for seed in cfg.seeds
    ]


def present_results(wildcards):
    """Which result files of a dataset are there now."""
    files = fits("<results>/<fit>/run.json", dataset=wildcards.dataset)
    files += fits("<results>/<fit>/clustering.tsv", dataset=wildcards.dataset)
    files += fits("<results>/<fit>/integration.tsv", dataset=wildcards.dataset)
    files += fits("<results>/<fit>/classification/{label}/cv-seed-{cv_seed}.tsv", dataset=wildcards.dataset)
    files += [job["file"] for job in shared_jobs(wildcards)]
    return [file for file in files if Path(file).exists()]


def ages_of_logs(wildcards):
    """When the logs of a dataset's jobs were last written: a failure that is tried again may fail otherwise."""
    grid = {"label": list(cfg.label_paths), "cv_seed": cfg.classification.seeds, "dataset": wildcards.dataset}
    files = sorted({file for pattern in LOG_PATTERNS.values() for file in fits(pattern, **grid)})
    files += [job["log"] for job in shared_jobs(wildcards)]
    return [Path(file).stat().st_mtime_ns for file in files if Path(file).exists()]


# Where each step leaves its log and its benchmark, for the tables of gaps and of resources.
LOG_PATTERNS = step_patterns("<logs>", "log")
BENCHMARK_PATTERNS = step_patterns("<benchmarks>", "tsv")


# ---- signals and handlers


if "SLURM_JOB_ID" in os.environ:
    # The profile asks for SIGUSR1 ahead of the time limit. It reaches every process of the job; whoever is around
    # the training must not die of it, and the training sets a handler of its own.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def write_manifest():
    """Before any work: what was asked for, by which code, where, through which scheduler."""
    try:
        _write_manifest()
    except OSError as error:
        raise WorkflowError(str(unwritable(error, workflow.pathvars.apply("<results>")))) from None


def _write_manifest():
    manifest.write(
        workflow.pathvars.apply("<results>/manifest.json"),
        cfg.model_dump(),
        REPOSITORY,
        workflow.configfiles,
        executor=workflow.executor_plugin.name,
        site=site,
        sharing={dataset: sharing_of(dataset).record() for dataset in cfg.datasets},
    )
    for dataset in cfg.datasets:
        decided = sharing_of(dataset)
        if decided.setting == "auto" and decided.n_fits > 1:
            logger.info(
                f"datasets.{dataset}.shared_statistics: {str(decided.shared).lower()}: {decided.reason}."
            )


def say_what_is_missing():
    """After a failure: which fits are there, which are not and why, and where to look."""
    manifest.say_what_is_missing(
        [fit for dataset in cfg.datasets for fit in expected_fits(SimpleNamespace(dataset=dataset))],
        [job for dataset in cfg.datasets for job in shared_jobs(SimpleNamespace(dataset=dataset))],
        workflow.pathvars.apply("<results>"),
        LOG_PATTERNS["train"],
        workflow.pathvars.apply("<logs>"),
    )
