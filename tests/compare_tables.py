"""Compare the numbers of two results folders: ``python tests/compare_tables.py BEFORE AFTER``.

Every CSV that both have is compared to the last printed digit, rows and columns in their order; of every
``result.h5ad`` that both have, every array, bit by bit. What only one side has is named. The exit status
is 1 where anything that both have differs, or where they have nothing in common.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np


def differing_lines(one: Path, other: Path) -> Iterator[str]:
    """Lines of two tables that are not the same."""
    before, after = one.read_text().splitlines(), other.read_text().splitlines()
    if len(before) != len(after):
        yield f"{len(before)} lines, now {len(after)}"
    for number, (old, new) in enumerate(zip(before, after, strict=False), 1):
        if old != new:
            yield f"line {number}: {old}\n{'now':>12}: {new}"


def differing_arrays(one: Path, other: Path) -> Iterator[str]:
    """Arrays of obsm and varm of two results that are not the same."""
    with h5py.File(one, "r") as before, h5py.File(other, "r") as after:
        for part in ("obsm", "varm"):
            for name in sorted(set(before[part]) | set(after[part])):
                if name not in before[part] or name not in after[part]:
                    yield f"{part}/{name}: on one side only"
                elif not np.array_equal(before[part][name][()], after[part][name][()]):
                    largest = np.abs(before[part][name][()] - after[part][name][()]).max()
                    yield f"{part}/{name}: differs by up to {largest:.3g}"


def main(before: Path, after: Path) -> int:
    """Print what differs; the exit status."""
    compared = different = 0
    for pattern, compare in (("*.csv", differing_lines), ("result.h5ad", differing_arrays)):
        here = {path.relative_to(before) for path in before.rglob(pattern)}
        there = {path.relative_to(after) for path in after.rglob(pattern)}
        for name in sorted(here ^ there):
            print(f"only {'before' if name in here else 'after'}: {name}")
        for name in sorted(here & there):
            compared += 1
            found = list(compare(before / name, after / name))
            different += bool(found)
            print(f"{'DIFFERS' if found else 'same':>7}  {name}")
            for line in found:
                print(f"         {line}")
    print(f"{compared} files compared, {different} differ")
    return int(different > 0 or compared == 0)


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:3])))
