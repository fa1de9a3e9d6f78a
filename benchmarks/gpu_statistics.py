"""The pass and the fit on GPUs, against what the card can do.

    python benchmarks/gpu_statistics.py

For 20,000 and 60,000 genes: cells a second of the pass over blocks of 4,096 cells with 1,000 nonzeros each
(densified on the card, float32 products without TF32, float64 sums, split over all cards that are visible),
and milliseconds of one product with XᵀX and of one whole sweep of ae_nmf at ranks 80 and 256. Beside each the
share of the card's float32 arithmetic and of its bandwidth, both measured here by a large product and a large
copy. Without a CUDA device it says so and measures nothing; ``--devices cpu:0 --genes 2000`` tries the script
itself on torch's processor device.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import scipy.sparse as sp

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

BLOCK = 4096


def main() -> None:
    import torch

    options = arguments()
    devices = options.devices or [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if not devices:
        print(f"no CUDA device is visible to torch {torch.__version__}: nothing was measured")
        return
    for device in devices:
        name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "processor"
        print(f"{device}: {name}")
    flops, bandwidth = limits(devices[0], options.size)
    print(f"float32 product {flops / 1e12:.2f} TFLOP/s, copy {bandwidth / 1e9:.0f} GB/s ({devices[0]})\n")
    print("| genes | what | measured | of the arithmetic | of the bandwidth | peak GPU memory |")
    print("|---|---|---|---|---|---|")
    for p in options.genes:
        gather(p, devices, flops, bandwidth, options)
        for k in options.ranks:
            fit(p, k, devices[0], flops, bandwidth, options)


def limits(device: str, size: int) -> tuple[float, float]:
    """FLOP/s of a float32 product and bytes/s of a copy (read and written)."""
    import torch

    A = torch.rand(size, size, device=device)
    out = torch.empty_like(A)
    product = seconds(lambda: torch.mm(A, A, out=out), device)
    copy = seconds(lambda: out.copy_(A), device)
    return 2 * size**3 / product, 2 * A.nbytes / copy


def gather(p: int, devices: list[str], flops: float, bandwidth: float, options) -> None:
    from nmfbench.statistics import Layout
    from nmfbench.statistics.grams import PartialGrams, gpu_bytes

    layout = Layout("", tuple(map(str, range(p))), BLOCK, method="dense")
    need = gpu_bytes(layout, len(devices), BLOCK) / 2**30
    X = random_block(p, options.nonzeros)
    reset_peak(devices)
    try:
        grams = PartialGrams(layout, devices)
        spent = seconds(lambda: grams.add(X), *devices, repeats=options.repeats)
    except RuntimeError as error:
        print(f"| {p} | the pass | not possible: {str(error).splitlines()[0]} | | | {need:.1f} GiB asked |")
        return
    entries = sum((b - a) * (p - a) for a, b in grams.tiles)
    of_flops = 2 * BLOCK * entries / spent / (flops * len(devices))
    # the float64 sum is read and written, the float32 product written and read
    of_bytes = entries * (2 * 8 + 2 * 4) / spent / (bandwidth * len(devices))
    peak = peak_gib(devices)
    print(
        f"| {p} | the pass on {len(devices)} devices | {BLOCK / spent:,.0f} cells/s | {of_flops:.0%} "
        f"| {of_bytes:.0%} | {peak} (asked for {need:.1f} GiB) |"
    )


def fit(p: int, k: int, device: str, flops: float, bandwidth: float, options) -> None:
    import torch

    from nmfbench.solvers import GramOperator
    from nmfbench.solvers.coordinate import TiedProblem

    reset_peak([device])
    rng = np.random.default_rng(0)
    try:
        root = torch.rand(p, 64, device=device)
        K = root @ root.T
        K.diagonal().add_(1.0)
        operator = GramOperator(K, n_cells=10 * p, squared_norm=float(K.trace()), device=device)
    except RuntimeError as error:
        print(f"| {p} | rank {k} | not possible: {str(error).splitlines()[0]} | | | |")
        return
    W = rng.random((p, k), dtype=np.float32) / p**0.5
    product = seconds(lambda: operator.image(W), device, repeats=options.repeats)
    problem = TiedProblem(operator, np.ascontiguousarray(W.T), lambda_W=1e-2)
    problem.refresh()
    problem.evaluate()

    def sweep() -> None:
        problem.sweep(1.8)
        problem.evaluate()

    whole = seconds(sweep, device, repeats=max(1, options.repeats // 2))
    for what, spent in (("product", product), ("sweep", whole)):
        print(
            f"| {p} | {what} at rank {k} | {1e3 * spent:.0f} ms | {2 * p * p * k / spent / flops:.0%} "
            f"| {4 * p * p / spent / bandwidth:.0%} | {peak_gib([device])} |"
        )


def random_block(p: int, nonzeros: int) -> sp.csr_matrix:
    """A block of cells with so many nonzeros each."""
    rng = np.random.default_rng(0)
    nonzeros = min(nonzeros, p)
    step = p // nonzeros
    indices = np.arange(nonzeros) * step + rng.integers(step, size=(BLOCK, nonzeros))
    data = rng.random(BLOCK * nonzeros, dtype=np.float32) + 0.1
    indptr = np.arange(0, BLOCK * nonzeros + 1, nonzeros)
    return sp.csr_matrix((data, indices.ravel().astype(np.int32), indptr), shape=(BLOCK, p))


def seconds(work, *devices: str, repeats: int = 5) -> float:
    """Mean seconds of some work after one run to warm up, all devices waited for."""
    import torch

    def wait() -> None:
        for device in devices:
            if device.startswith("cuda"):
                torch.cuda.synchronize(device)

    work()
    wait()
    began = time.perf_counter()
    for _ in range(repeats):
        work()
    wait()
    return (time.perf_counter() - began) / repeats


def reset_peak(devices: list[str]) -> None:
    import torch

    for device in devices:
        if device.startswith("cuda"):
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)


def peak_gib(devices: list[str]) -> str:
    import torch

    on_gpu = [torch.cuda.max_memory_allocated(d) / 2**30 for d in devices if d.startswith("cuda")]
    return f"{max(on_gpu):.1f} GiB" if on_gpu else "no GPU"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--genes", type=int, nargs="+", default=[20_000, 60_000])
    parser.add_argument("--ranks", type=int, nargs="+", default=[80, 256])
    parser.add_argument("--nonzeros", type=int, default=1000, help="of a cell")
    parser.add_argument("--devices", nargs="+", help="all CUDA devices by default")
    parser.add_argument("--size", type=int, default=8192, help="rows of the matrices that find the limits")
    parser.add_argument("--repeats", type=int, default=10)
    return parser.parse_args()


if __name__ == "__main__":
    main()
