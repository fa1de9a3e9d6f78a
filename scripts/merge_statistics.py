"""Add shards of statistics in the order of the shards: .h5 files of one shard each in; one .h5 out."""

from nmfbench.job import job

with job(snakemake):
    from nmfbench.statistics import merge_files

    merge_files(snakemake.input.shards, snakemake.output[0], shards=snakemake.params.shards)
