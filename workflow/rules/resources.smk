# What a job asks for: it grows with the input and doubles with each attempt. Functions only, as in common.smk.

from nmfbench import shared_gpu
from nmfbench.cluster import Site, do_without_accounting
from nmfbench.expected import ExpectedSizes
from nmfbench.gram_cost import host_gram_mb
from nmfbench.metrics.classifiers import ON_A_DEVICE
from nmfbench.scheduler_turns import one_chain_of_timers

site = Site.of(workflow.resource_settings.default_resources)
# Not the input's own size: that of a file which no job has made yet is unknown, and a dry run would say nothing.
expected = ExpectedSizes(cfg.datasets)
if "snakemake_executor_plugin_slurm" in sys.modules:
    do_without_accounting(sys.modules["snakemake_executor_plugin_slurm"])
one_chain_of_timers()
shares_gpu_jobs = site.shares_gpu_jobs and shared_gpu.groups_fall_apart()


def scheduler_is_unknown():
    """Whether a scheduler runs the jobs without a profile that says whether, and how, it is asked for a GPU."""
    return (
        workflow.executor_plugin is not None
        and workflow.executor_plugin.name == "slurm"
        and not site.schedules
    )


def memory(base, per_input_mb=0.0):
    """Megabytes of memory: a base and a share of the input's size, doubled with each further attempt."""

    def request(wildcards, input, attempt):
        return site.megabytes((base + per_input_mb * expected.megabytes(input)) * 2 ** (attempt - 1))

    return request


def minutes(base, per_input_mb=0.0, gpus=lambda wildcards: 0):
    """Minutes of run time: a base and a share of the input's size, doubled with each further attempt."""

    def request(wildcards, input, attempt):
        return site.minutes(
            (base + per_input_mb * expected.megabytes(input)) * 2 ** (attempt - 1), gpus(wildcards)
        )

    return request


def fit_memory(n_files=1, besides=0.0):
    """Megabytes for fits from statistics: the Gram matrices that are held, and what a fit needs besides."""

    def request(wildcards, input, attempt):
        held = host_gram_mb(plan.section(wildcards).gram_memory_mb)
        grams = min(n_files * held, expected.megabytes(input))
        return site.megabytes((3000 + besides + 1.05 * grams) * 2 ** (attempt - 1))

    return request


def training_memory(wildcards, input, attempt):
    """Megabytes for training: from statistics, from the cells as the model's card has it, or from cells on disk."""
    card, dataset, rank = plan.card(wildcards), wildcards.dataset, int(wildcards.rank)
    asked = card.resources
    loadings = expected.megabytes_of_loadings(dataset, rank) if card.own_loadings else 0.0
    if getattr(input, "statistics", None):
        return fit_memory(besides=loadings)(wildcards, input, attempt)
    if plan.out_of_core(wildcards):
        return memory(asked.megabytes + loadings)(wildcards, input, attempt)
    factors = expected.megabytes_of_factors(dataset, rank)
    return memory(asked.megabytes + factors + loadings, asked.megabytes_per_input)(wildcards, input, attempt)


def training_gpus(wildcards):
    """GPUs that a training asks for: one, where the model can use it and the config does not say otherwise."""
    wanted = cfg.device == "cuda" or (cfg.device == "auto" and not scheduler_is_unknown())
    return int(plan.card(wildcards).gpu and wanted)


def fits_together(wildcards):
    """The group in which a short training shares a GPU job with others of its dataset that begin from the same; or none."""
    if workflow.execution_settings.attempt > 1 or not shares_gpu_jobs or not training_gpus(wildcards):
        return None
    if seconds_of_fit(wildcards) > shared_gpu.SHORT_FIT:
        return None
    begins = (
        "statistics" if plan.statistics(wildcards) else "shuffled" if plan.shuffled(wildcards) else "cells"
    )
    name = f"fits_{wildcards.dataset}_{begins}"
    if not workflow.remote_exec:  # within the job each is a step of its own, one after the other
        workflow.group_settings.group_components[name] = site.fits_per_gpu_job
    return name


def seconds_of_fit(wildcards):
    """About how long a training takes on a GPU."""
    nonzeros = expected.of_dataset(wildcards.dataset).n_nonzeros or 0
    return shared_gpu.expected_seconds(nonzeros, int(wildcards.rank), plan.section(wildcards).passes())


def training_minutes(base, per_input_mb):
    """Minutes for a training: of one that shares its job what it is expected to take, of others as they grow with the input."""

    def request(wildcards, input, attempt):
        if attempt == 1 and fits_together(wildcards):
            return site.minutes(shared_gpu.minutes_of(seconds_of_fit(wildcards)), 1)
        return minutes(base, per_input_mb, training_gpus)(wildcards, input, attempt)

    return request


def scores_on(with_forest=False):
    """The device of a scoring job as its parameter, where it is not the CPU: that of before runs nothing again."""
    wanted = cfg.scoring_device == "cuda" or (
        cfg.scoring_device == "auto" and not scheduler_is_unknown() and not with_forest
    )
    return {"device": cfg.scoring_device} if wanted else {}


def classifies_on():
    """The same of a classification, which has work for a GPU where it fits a regression."""
    names = cfg.classification.classifiers
    forest = any("random_forest" in name for name in names)
    return scores_on(forest) if set(names) & set(ON_A_DEVICE) else {}


def gathering_gpus(wildcards):
    """GPUs that a shard of the statistics asks for: one, where the config has the pass on a GPU."""
    return int(cfg.statistics.device != "cpu")


def gpu_resources(mem_mb, base_minutes, minutes_per_input_mb, gpus):
    """Memory, time and, where `gpus` says so, a GPU in the words of the site (profiles/README.md)."""

    def resource(key):
        return lambda wildcards: site.gpu_resources(gpus(wildcards))[key]

    return {
        "mem_mb": mem_mb,
        "runtime": minutes(base_minutes, minutes_per_input_mb, gpus),
        **{key: resource(key) for key in ("gpu", "gpu_model", "gres", "slurm_partition")},
    }


def training_resources(mem_mb, base_minutes, minutes_per_input_mb):
    """What every rule that trains asks for; whether it holds a GPU follows from the card and the config."""
    return gpu_resources(mem_mb, base_minutes, minutes_per_input_mb, training_gpus)
