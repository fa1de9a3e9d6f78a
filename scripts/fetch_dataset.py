"""Download one dataset: address, checksum and size in; the verified .h5ad out."""

from nmfbench.job import job

with job(snakemake) as run:
    from nmfbench.data import fetch

    source = snakemake.params.source
    fetch(source["url"], source["sha256"], snakemake.output[0], size=source["size"], terminal=run.terminal)
