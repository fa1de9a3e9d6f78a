# What a job asks for: it grows with the input and doubles with each attempt. Functions only, as in common.smk.

from nmfbench.expected import ExpectedSizes
from nmfbench.cluster import Site, do_without_accounting

site = Site.of(workflow.resource_settings.default_resources)
# Not the input's own size: that of a file which no job has made yet is unknown, and a dry run would say nothing.
expected = ExpectedSizes(cfg.datasets)
if "snakemake_executor_plugin_slurm" in sys.modules:
    do_without_accounting(sys.modules["snakemake_executor_plugin_slurm"])


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


def fit_memory(n_files=1):
    """Megabytes for fits from statistics: the Gram matrices that are held, and what a fit needs besides."""

    def request(wildcards, input, attempt):
        grams = min(n_files * plan.section(wildcards).gram_memory_mb, expected.megabytes(input))
        return site.megabytes((3000 + 1.05 * grams) * 2 ** (attempt - 1))

    return request


def training_memory(wildcards, input, attempt):
    """Megabytes for training: from statistics, from the cells as the model's card has it, or from cells on disk."""
    if getattr(input, "statistics", None):
        return fit_memory()(wildcards, input, attempt)
    asked = plan.card(wildcards).resources
    share = 0 if plan.out_of_core(wildcards) else asked.megabytes_per_input
    return memory(asked.megabytes, share)(wildcards, input, attempt)


def training_gpus(wildcards):
    """GPUs that a training asks for: one, where the model can use it and the config does not say otherwise."""
    wanted = cfg.device == "cuda" or (cfg.device == "auto" and not scheduler_is_unknown())
    return int(plan.card(wildcards).gpu and wanted)


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
