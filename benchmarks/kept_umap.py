"""What a job that lays cells out takes when numba has to compile umap-learn, and when it finds that kept.

    python benchmarks/kept_umap.py

Each line is a process of its own. ``empty`` begins without any cache of numba; the others come after it, ``as
before`` with what umap-learn itself asks to be kept, ``kept`` with our part too.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version

JOB = """
import hashlib, sys, time
import numpy as np
started = time.process_time()
from nmfbench.metrics import clustering, projection
if sys.argv[1] == "as before":
    clustering.keep_compiled = projection.keep_compiled = lambda *functions: None
found = projection.compute_umap(np.random.default_rng(0).random((420, 5), dtype=np.float32), n_neighbours=10)
print(f"{time.process_time() - started:.1f}", hashlib.md5(found.to_numpy().tobytes()).hexdigest())
"""


def main() -> None:
    print(platform.processor() or platform.machine(), platform.python_version(), end=", ")
    print(*(f"{name} {version(name)}" for name in ("numba", "umap-learn")), sep=", ")
    print("job\tcpu_seconds\tmd5 of the coordinates")
    with tempfile.TemporaryDirectory() as cache:
        for job in ("empty", "as before", "kept", "as before", "kept"):
            ran = subprocess.run(
                [sys.executable, "-W", "ignore", "-c", JOB, job],
                env=os.environ | {"NUMBA_CACHE_DIR": cache},
                check=True,
                capture_output=True,
                text=True,
            )
            print(job, *ran.stdout.split(), sep="\t")


if __name__ == "__main__":
    main()
