"""Training on one card against what it should reach, beside a plain dense script in the same run.

    python benchmarks/gpu_training.py
    python benchmarks/gpu_training.py --only minibatch pass --out reached.json
    python benchmarks/gpu_training.py --device cpu --small
    python benchmarks/gpu_training.py --only atlas --filtered results/data/atlas/filtered.h5ad
    python benchmarks/gpu_training.py --device cpu --only processor --before ../worktree-of-before

Every line has the target that was set for one H100- or H200-class card with 16 host cores, and what was
reached here (docs/gpu.md). The parts are in `gpu_parts/`; those that would begin after five and a half
minutes are said not to have run. Without a CUDA device it says so, measures nothing and ends with exit code
3. `--small` runs every line at toy sizes, on whatever device, to see that the script works: its numbers mean
nothing and are held to no target.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
for folder in (HERE, HERE.parent / "scripts"):
    sys.path.insert(0, str(folder))

MODULES = ("minibatch", "gram", "counts", "scores", "atlas", "processor")
"""Of `gpu_parts`; each enters its parts."""

LAST_BEGIN = 330.0
"""Seconds after which no further part begins: all should end within six minutes."""


def main(arguments: Sequence[str] | None = None) -> int:
    import torch

    from nmfbench.endings import EXIT_NO_DEVICE

    options = parse(arguments)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print(f"no CUDA device is visible to torch {torch.__version__}: nothing was measured")
        return EXIT_NO_DEVICE
    from gpu_parts.registry import Bench

    bench = Bench(torch.device(options.device), options.small)
    if bench.small and not bench.on_card:
        let_the_processor_stand_in()
    given = {"before": options.before, "filtered": options.filtered}
    bench.kept |= {name: value for name, value in given.items() if value}
    name = torch.cuda.get_device_name(bench.device) if bench.on_card else "processor"
    print(f"{bench.device}: {name}, torch {torch.__version__}" + ", toy sizes" * bench.small)
    lines, failed = measure(bench, options.only or list(load_parts()))
    if options.out:
        record = {"device": name, "torch": torch.__version__, "small": bench.small, "lines": lines}
        Path(options.out).write_text(json.dumps(record, indent=1) + "\n")
    return int(failed)


def measure(bench, wanted: Sequence[str]) -> tuple[list[dict], bool]:
    """Run the parts and print their lines; whether one of them failed."""
    parts, lines, failed = load_parts(), [], False
    row("what", "target", "reached", "met", "beside")
    row(*["---"] * 5)
    began = time.monotonic()
    for name in wanted:
        if time.monotonic() - began > LAST_BEGIN:
            row(name, "", "not run", "", "out of time")
            lines.append({"part": name, "not_run": "out of time"})
            continue
        try:
            for line in parts[name](bench):
                lines.append({"part": name, "met": None if bench.small else line.met, **asdict(line)})
                show(line, bench.small)
        except Exception as error:  # the other parts are worth having
            failed = True
            traceback.print_exc()
            row(name, "", "failed", "", f"{type(error).__name__}: {error}".splitlines()[0][:120])
            lines.append({"part": name, "failed": f"{type(error).__name__}: {error}"})
    print(f"{time.monotonic() - began:.0f} s in all")
    return lines, failed


def let_the_processor_stand_in() -> None:
    """Have minibatches take a card's way, with the plain step in place of the recorded one."""
    from nmfbench.models.autoencoder import on_card

    on_card.CARDS = on_card.CARDS | {"cpu"}


def load_parts() -> dict:
    """All parts, in the order in which they run."""
    for module in MODULES:
        importlib.import_module(f"gpu_parts.{module}")
    return importlib.import_module("gpu_parts.registry").PARTS


def show(line, small: bool) -> None:
    target = "" if line.target is None else f"{'<=' if line.at_most else '>='} {line.target:g} {line.unit}"
    reached = "not run" if line.reached is None else f"{line.reached:.4g} {line.unit}"
    met = "" if small or line.met is None else ("yes" if line.met else "NO")
    row(line.what, target, reached, met, line.beside)


def row(*values: object) -> None:
    print("| " + " | ".join(map(str, values)) + " |", flush=True)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="toy sizes: a rehearsal, no measurement")
    parser.add_argument("--only", nargs="+", choices=list(load_parts()), metavar="PART")
    parser.add_argument("--filtered", metavar="FILE", help="filtered.h5ad of an atlas, for the part `atlas`")
    parser.add_argument("--before", metavar="TREE", help="a checkout that the CPU path is held to")
    parser.add_argument("--out", help="write the lines as JSON")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
