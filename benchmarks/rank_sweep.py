"""What many ranks and seeds cost from statistics gathered once: 10 seeds x 5 ranks, fitted and judged.

    python benchmarks/rank_sweep.py --cells 20000 --genes 2000

Counts every cell that is read, so that a repeated pass would show. ``--clock cpu`` counts CPU seconds of this
process, for a busy machine; set OMP_NUM_THREADS and NUMBA_NUM_THREADS to 1 then.
"""

from __future__ import annotations

import platform
import tempfile
import time
from pathlib import Path

from simulated_pass import filtered_atlas, gather, parser, set_clock

SEEDS = list(range(10))


def main() -> None:
    options = arguments()
    set_clock(options)
    with tempfile.TemporaryDirectory() as folder:
        run(options, Path(folder))


def run(options, folder: Path) -> tuple[float, float, int]:
    """Print the table; returns seconds in all, twice the pass plus the fits, and the cells that fits read."""
    import pandas as pd

    from nmfbench.data.filtered import FilteredCounts
    from nmfbench.job import Job
    from nmfbench.rank_selection import sweep
    from nmfbench.statistics import merge_files

    filtered = filtered_atlas(options, folder)
    read = count_cells(FilteredCounts)

    def the_pass() -> float:
        began = time.perf_counter()
        parts, last = gather(filtered, options.shards), options.shards - 1
        merge_files(parts[:last], folder / "fitted.h5", shards=range(last))
        merge_files(parts[last:], folder / "held_out.h5", shards=[last])
        return time.perf_counter() - began

    def fit(ranks, seeds) -> tuple[float, pd.DataFrame]:
        began = time.perf_counter()
        sweep(
            folder / "fitted.h5", folder / "held_out.h5", folder / "fits.tsv", kind="ae_nmf", name="ae_nmf",
            settings={}, ranks=ranks, seeds=seeds, penalties=[{}], gene_folds=5, device="cpu",
            run=Job(threads=options.threads),
        )  # fmt: skip
        return time.perf_counter() - began, pd.read_csv(folder / "fits.tsv", sep="\t")

    the_pass()  # compiles
    fit([2], SEEDS[:2])
    read.clear()
    of_pass = the_pass()
    cells_of_pass = sum(read)
    of_sweep, fits = fit(options.ranks, SEEDS)
    of_fits = fits["seconds"].sum()
    total, bound = of_pass + of_sweep, 2 * of_pass + of_fits
    print(f"{platform.processor() or platform.machine()}; {options.clock} seconds, {options.threads} threads")
    print(f"{options.cells} cells x {options.genes} genes, ranks {options.ranks}, {len(SEEDS)} seeds\n")
    print("| what | seconds |\n|---|---|")
    print(f"| the pass ({options.shards} shards, merged) | {of_pass:.1f} |")
    print(f"| {len(fits)} fits alone | {of_fits:.1f} |")
    print(f"| reading the statistics, judging, stability, checkpoints | {of_sweep - of_fits:.1f} |")
    print(f"| all together | {total:.1f} |")
    print(f"| twice the pass plus the fits: {'kept' if total < bound else 'MISSED'} | {bound:.1f} |")
    print(f"| had every fit its own pass | {of_pass * len(fits) + of_fits:.1f} |\n")
    by_fits = sum(read) - cells_of_pass
    print(f"cells read by the pass: {cells_of_pass} of {options.cells}; by all fits: {by_fits}")
    by_rank = fits.groupby("rank")[["seconds", "sweeps", "relative_error", "predicted_error", "stability"]]
    print(by_rank.mean().round(4).to_string())
    return total, bound, by_fits


def count_cells(counts_class) -> list[int]:
    """Cells of every block that is read from now on."""
    seen: list[int] = []

    def counted(method):
        def reading(self, *arguments, **options):
            for first, block in method(self, *arguments, **options):
                seen.append(block.shape[0])
                yield first, block

        return reading

    counts_class.blocks, counts_class.spans = counted(counts_class.blocks), counted(counts_class.spans)
    return seen


def arguments(given: list[str] | None = None):
    options = parser(__doc__, genes=2_000)
    options.add_argument("--ranks", type=int, nargs="+", default=[5, 10, 20, 40, 80])
    options.add_argument("--threads", type=int, default=1)
    return options.parse_args(given)


if __name__ == "__main__":
    main()
