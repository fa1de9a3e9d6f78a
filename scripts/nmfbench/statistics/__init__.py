"""Sufficient statistics: one streamed pass over the cells, additive over shards.

Every term of the tied models depends on the cells only through ||X||², Xᵀ X (of all cells, or of each donor)
and sums over cell types and conditions; see docs/models.md.
"""

from nmfbench.gram_cost import choose_method, gram_bytes
from nmfbench.statistics.gather import gather_shard
from nmfbench.statistics.merging import merge, merge_files
from nmfbench.statistics.record import Layout, Statistics, check_memory
from nmfbench.statistics.store import load, save
from nmfbench.statistics.tiles import gather_to_disk

__all__ = [
    "Layout",
    "Statistics",
    "check_memory",
    "choose_method",
    "gather_shard",
    "gather_to_disk",
    "gram_bytes",
    "load",
    "merge",
    "merge_files",
    "save",
]
