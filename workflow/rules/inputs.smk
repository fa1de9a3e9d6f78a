# Where rules take their files from. Functions only.

from nmfbench.data.size import require_ranks
from nmfbench.data.source import source_state


def source_file(wildcards):
    """The .h5ad a dataset starts from: the person's own file, where it lies, or the one we download or simulate."""
    dataset = cfg.datasets[wildcards.dataset]
    own = None if dataset.joined else dataset.path
    return local(own) if own else plan.spell(f"<results>/{wildcards.dataset}/source.h5ad")


def state_of_source(wildcards):
    """What tells a person's own file from another under its name, older ones included; None for those we make."""
    dataset = cfg.datasets[wildcards.dataset]
    if dataset.path is None or dataset.joined:
        return None
    try:
        require_ranks(dataset.path, dataset.matrix.source, cfg.ranks)
    except InputError as error:
        raise WorkflowError(str(error)) from None
    return source_state(dataset.path)


def shards_of(wildcards):
    """Shard files of a part of the cells."""
    files = gather.shard("<results>/{{dataset}}/statistics/shards/{scatteritem}.h5")
    return [files[shard] for shard in plan.shards_in(wildcards.part)]


def pattern_files(wildcards):
    """Tables of constant patterns that a model's section names."""
    return [local(file) for file in plan.section(wildcards).pattern_files()]
