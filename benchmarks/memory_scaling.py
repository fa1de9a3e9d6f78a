"""Peak memory of every stage from counts to embedding against the number of cells.

Run: python benchmarks/memory_scaling.py --folder DIR [--cells 50000 100000 200000 600000] [--genes 2000]

The stages are those of rehearsal.py, each in a process of its own; seconds are those of a machine that may be
busy. The last column is the growth from the first number of cells to the last.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from rehearsal import MINIBATCH, STAGES, in_own_process


def main() -> None:
    run(arguments())


def run(options: argparse.Namespace) -> dict[str, float]:
    """Print the tables; returns the growth of each stage from the first number of cells to the last."""
    stages = STAGES + MINIBATCH
    peaks: dict[str, list[int]] = {stage: [] for stage in stages}
    print("cells\tstage\twall_s\tcpu_s\tpeak_MB\tload\tmore", flush=True)
    for cells in options.cells:
        folder = options.folder / f"cells-{cells}"
        folder.mkdir(parents=True)
        for stage in stages:
            row = in_own_process(stage, folder, cells, options.genes, options.rank, options.threads)
            print(f"{cells}\t{row}", flush=True)
            peaks[stage].append(int(row.split("\t")[3]))
        shutil.rmtree(folder)
    print("\nstage\t" + "\t".join(f"{cells} cells, MB" for cells in options.cells) + "\tgrowth")
    growth = {stage: found[-1] / found[0] - 1 for stage, found in peaks.items()}
    for stage, found in peaks.items():
        print(f"{stage}\t" + "\t".join(map(str, found)) + f"\t{growth[stage]:.1%}")
    return growth


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cells", type=int, nargs="+", default=[50_000, 100_000, 200_000, 600_000])
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--rank", type=int, default=80)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, required=True, help="on a disk with 3 GB free")
    return parser.parse_args(given)


if __name__ == "__main__":
    main()
