"""What fits from sufficient statistics are meant to reach at atlas scale: one table, target beside measured.

    python benchmarks/atlas_targets.py --folder DIR --kang kang2018_pbmc_ifnb.h5ad [--rows kang time]

Runs the other benchmarks at their full size, one after the other, on a machine that should do nothing else
(hours, most of them for ``memory`` and ``rehearsal``); ``--small`` tries the script at sizes that prove
nothing. What they print comes first, the table last.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

import memory_scaling
import rank_sweep
import rehearsal
import time_to_objective

NORMALISATION = {"target_sum": 1e4, "log1p": True}
SMALL = {
    "time": ["--cells", "1000", "--genes", "200", "--rank", "5"],
    "sweep": ["--cells", "1000", "--genes", "200", "--ranks", "2", "3"],
    "memory": ["--cells", "3000", "6000", "--genes", "200", "--rank", "5"],
    "rehearsal": (3000, 200, 5),
}
FULL_REHEARSAL = (592_000, 20_000, 80)

Row = tuple[str, str, str, bool]  # what, target, measured, reached


def kang(options, folder: Path) -> list[Row]:
    """Relative errors on the 2,792 real cells, by the default solver."""
    from threadpoolctl import threadpool_limits

    from nmfbench.data import filter_donors, load_normalised, read_filtered
    from nmfbench.models import get_model

    filter_donors(options.kang, folder / "kang.h5ad", folder / "kang.tsv", min_cells_per_donor=1)
    data = read_filtered(folder / "kang.h5ad")
    X, rank = load_normalised(data.path, **NORMALISATION), 5 if options.small else 80
    labels = {"conditions": data.label("donor_id"), "strata": data.label("cell_type")}
    rows, tied = [], float("nan")
    for kind in ("ae_nmf", "cae_nmf1", "cae_nmf2"):
        make = get_model(kind)
        with threadpool_limits(options.threads):
            make(2, max_iter=2, random_state=0, device="cpu").fit(X, **labels, progress=False)  # compiles
            model = make(rank, random_state=0, device="cpu").fit(X, **labels, progress=False)
        end = model.relative_error_
        if kind == "ae_nmf":
            tied = end
            soon = [row["relative_error"] for row in model.history_ if row["seconds"] <= 30]
            best = min(soon, default=float("nan"))
            rows.append((f"{kind}, k = {rank}: error within 30 s", "<= 0.470", f"{best:.4f}", best <= 0.470))
            rows.append((f"{kind} at convergence", "<= 0.468", f"{end:.4f}", end <= 0.468))
        else:
            rows.append((f"{kind} at convergence", f"<= {tied:.4f}", f"{end:.4f}", end <= tied))
    return rows


def objective(options, folder: Path) -> list[Row]:
    """Seconds to the objective of 100 published epochs."""
    given = time_to_objective.arguments(SMALL["time"] if options.small else [])
    shorter = time_to_objective.run(given, folder)
    bounds = {"statistics, without the pass": 20, "statistics, with the pass": 5}
    return [
        (
            f"time to the objective of 100 epochs: {way}",
            f">= {bound} x shorter",
            f"{shorter[way]:.1f} x",
            shorter[way] >= bound,
        )
        for way, bound in bounds.items()
    ]


def sweep(options, folder: Path) -> list[Row]:
    """Many ranks and seeds from one pass."""
    given = rank_sweep.arguments([*(SMALL["sweep"] if options.small else []), f"--threads={options.threads}"])
    total, bound, again = rank_sweep.run(given, folder)
    fits = f"10 seeds x {len(given.ranks)} ranks"
    return [
        (f"{fits}: seconds", f"< {bound:.1f} (twice the pass + the fits)", f"{total:.1f}", total < bound),
        (f"{fits}: cells read again", "0", str(again), again == 0),
    ]


def memory(options, folder: Path) -> list[Row]:
    """Growth of each stage's peak memory."""
    sizes = [
        *(SMALL["memory"] if options.small else []),
        f"--threads={options.threads}",
        f"--folder={folder}",
    ]
    growth = memory_scaling.run(memory_scaling.arguments(sizes))
    del growth["simulate"]
    return [(f"peak memory of {s}: growth", "< 10 %", f"{g:.1%}", g < 0.10) for s, g in growth.items()]


def whole_way(options, folder: Path) -> list[Row]:
    """The rehearsal, stage by stage."""
    sizes = SMALL["rehearsal"] if options.small else FULL_REHEARSAL
    rows, minutes, peaks = [], 0.0, []
    for stage in rehearsal.STAGES:
        row = rehearsal.in_own_process(stage, folder, *sizes, options.threads)
        print(row, flush=True)
        if stage != "simulate":
            wall, _, peak = map(float, row.split("\t")[1:4])
            minutes += wall / 60
            peaks.append(peak)
            rows.append(
                (f"rehearsal: {stage}", "minutes stated", f"{wall / 60:.1f} min, {peak:.0f} MB", True)
            )
    what = f"rehearsal, {sizes[0]} cells x {sizes[1]} genes: h5ad to embedding"
    rows.append((what, "< 12,000 MB", f"{minutes:.1f} min, {max(peaks):.0f} MB", max(peaks) < 12_000))
    return rows


PARTS = {"kang": kang, "time": objective, "sweep": sweep, "memory": memory, "rehearsal": whole_way}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--folder", type=Path, required=True, help="on a disk with 100 GB free")
    parser.add_argument("--kang", type=Path, default=os.environ.get("NMFBENCH_REAL_H5AD"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    if "kang" in options.rows and options.kang is None:
        parser.error("--kang: give the path of kang2018_pbmc_ifnb.h5ad, or leave `kang` out of --rows")
    options.folder.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for name in options.rows:
        print(f"\n== {name}", flush=True)
        began = time.perf_counter()
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            rows += PARTS[name](options, Path(folder))
        print(f"== {name}: {time.perf_counter() - began:.0f} s, load {os.getloadavg()[0]:.1f}", flush=True)
    size = ", at sizes that prove nothing" * options.small
    print(f"\n{platform.processor() or platform.machine()}, {options.threads} threads{size}\n")
    print("| what | to reach | measured | |\n|---|---|---|---|")
    for what, target, measured, reached in rows:
        print(f"| {what} | {target} | {measured} | {'reached' if reached else 'MISSED'} |")


if __name__ == "__main__":
    main()
