"""Python imports this when it starts in an environment that has this checkout (`make demo` makes one).

Snakemake writes to its cache before it reads the workflow, so nothing in the workflow could help it where the
home folder is missing, read-only or full. Nothing happens in other programs, nor where the usual cache does.
"""

import sys

if any("snakemake" in word for word in sys.orig_argv[:4]):
    import runpy
    from pathlib import Path

    # by its path: the workflow may be that of another checkout, whose package is then the one to import
    runpy.run_path(str(Path(__file__).with_name("nmfbench") / "caches.py"))["settle"]()
