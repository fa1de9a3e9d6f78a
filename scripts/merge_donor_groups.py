"""Add the statistics of all groups of donors but one: .h5 files of a group each in; one .h5 out."""

from nmfbench.job import job

with job(snakemake):
    from nmfbench.statistics import merge_files

    left_out = int(snakemake.wildcards.group)
    others = [group for group in range(snakemake.params.groups) if group != left_out]
    merge_files(snakemake.input.groups, snakemake.output[0], shards=others)
