"""Python imports this when it starts in an environment that has this checkout (`make demo` makes one).

Snakemake writes to its cache before it reads the workflow, so nothing in the workflow could help it where the
home folder is missing, read-only or full. Nothing happens in other programs, nor where the usual cache does.
"""

import sys

if any("snakemake" in word for word in sys.orig_argv[:4]):
    from nmfbench.caches import settle

    settle()
