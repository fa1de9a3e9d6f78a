"""How big the house is: files and lines of the package, and what one training enters of it.

    python benchmarks/house.py                      # this checkout
    python benchmarks/house.py --tree ../before     # another one, by the same count

A training is what a job of the workflow does, from filtered counts to the three files it leaves, on 120
simulated cells. Counted are the functions of the package that are entered and the files they stand in; module
bodies and"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

SETTINGS = {
    "base_nmf": {"max_iter": 4},
    "ae_nmf": {"max_iter": {"minibatch": 4}, "batch_size": 30},
    "cae_nmf1": {"solver": "minibatch", "max_iter": 2, "batch_size": 30},
    "pyro_gamma_nb": {"max_iter": 4, "held_out_fraction": 0.1},
    "pnmf": {"max_iter": 4},
    "pnmf_spatial": {"max_iter": 4, "num_inducing": 10},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tree", type=Path, default=Path(__file__).resolve().parents[1])
    parser.add_argument("--kind", help="count one training in this process (used by the script itself)")
    options = parser.parse_args()
    if options.kind:
        sys.stdout.write(json.dumps(entered(options.tree, options.kind)))
        return
    package = options.tree / "scripts" / "nmfbench"
    sizes = {path: len(path.read_text().splitlines()) for path in package.rglob("*.py")}
    for part in ("", "models", "fitting", "rows", "training", "solvers", "statistics"):
        inside = [n for path, n in sizes.items() if path.is_relative_to(package / part)]
        if inside:
            print(f"| {part or 'package'} | {len(inside)} files | {sum(inside)} lines |")
    for kind in SETTINGS:
        command = [sys.executable, __file__, "--tree", str(options.tree), "--kind", kind]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        counts = json.loads(done.stdout.splitlines()[-1])
        print("| " + " | ".join([kind, *(f"{n} functions, {m} files" for n, m in counts)]) + " |", flush=True)


FIT = ("models", "fitting", "training", "solvers", "gram.py", "gram_cost.py")


def entered(tree: Path, kind: str) -> list[tuple[int, int]]:
    """Functions that one training enters and files they stand in: of the package, and of the fit alone."""
    sys.path.insert(0, str(tree / "scripts"))
    import anndata
    import numpy as np

    from nmfbench.data import filter_donors, simulate_atlas
    from nmfbench.job import Job
    from nmfbench.train import train

    package, seen = str(tree / "scripts" / "nmfbench"), set()

    def note(frame, event, _):
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(package) and code.co_name != "<module>":
            seen.add((code.co_filename, code.co_qualname))

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        simulate_atlas(
            *(folder / "source.h5ad",),
            **{"n_cells": 120, "n_genes": 40, "n_cell_types": 2, "n_donors": 2, "n_small_donors": 0},
            **{"min_cells": 20, "mean_counts": 60.0},
        )
        cells = anndata.read_h5ad(folder / "source.h5ad")
        cells.obsm["spatial"] = np.random.default_rng(0).uniform(size=(cells.n_obs, 2))
        cells.write_h5ad(folder / "spatial.h5ad")
        files = [folder / each for each in ("spatial.h5ad", "filtered.h5ad", "donors.tsv")]
        filter_donors(*files, min_cells_per_donor=20)
        outputs = {"result": "result.h5ad", "history": "history.tsv", "record": "run.json"}
        sys.setprofile(note)
        try:
            train(
                str(folder / "filtered.h5ad"),
                **{key: str(folder / each) for key, each in outputs.items()},
                **{"kind": kind, "name": kind, "display_name": kind, "settings": SETTINGS[kind]},
                **{"rank": 2, "seed": 0, "device": "cpu", "condition_columns": ["donor_id"]},
                normalisation={"target_sum": 1e4, "log1p": True},
                run=Job(threads=1),
            )
        finally:
            sys.setprofile(None)
    of_fit = {each for each in seen if Path(each[0]).relative_to(package).parts[0] in FIT}
    return [(len(found), len({file for file, _ in found})) for found in (seen, of_fit)]


if __name__ == "__main__":
    main()
