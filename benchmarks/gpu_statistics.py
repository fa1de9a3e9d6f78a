"""The pass and the fit on GPUs, against what the card can do.

    python benchmarks/gpu_statistics.py
    python benchmarks/gpu_statistics.py --rehearse

For 20,000 and 60,000 genes: cells a second of the pass over blocks of 4,096 cells with 1,000 nonzeros each
(densified on the card, float32 products without TF32, float64 sums, split over all cards that are visible);
the same products alone, one card, by every way that could be taken instead (TF32, TF32 with correction,
sparse by dense), with their largest error; milliseconds of one product with XᵀX and of one iteration (a whole
sweep) of ae_nmf at ranks 80 and 256. Beside each the share of the card's float32 arithmetic and of its
bandwidth, both measured here by a large product and a large copy, and the peak of GPU memory.

Without a CUDA device it says so and measures nothing. ``--rehearse`` runs every line at a small size on
torch's processor device, to see that the script works: its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import scipy.sparse as sp

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

REHEARSAL = {"genes": [300, 1500], "ranks": [4, 8], "nonzeros": 50, "block": 256, "size": 512, "repeats": 1}
_TF32_BITS = -(2**13)  # a mask that keeps the 10 bits of a TF32 mantissa


def main(arguments: Sequence[str] | None = None) -> None:
    import torch

    options = parse(arguments)
    devices = options.devices or [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if not devices:
        print(f"no CUDA device is visible to torch {torch.__version__}: nothing was measured")
        return
    for device in devices:
        name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "processor"
        print(f"{device}: {name}, torch {torch.__version__}")
    flops, bandwidth = limits(devices[0], options.size)
    print(f"float32 product {flops / 1e12:.2f} TFLOP/s, copy {bandwidth / 1e9:.0f} GB/s ({devices[0]})\n")
    line("genes", "what", "measured", "of the arithmetic", "of the bandwidth", "error", "peak GPU memory")
    line(*["---"] * 7)
    for p in options.genes:
        possible(p, "the pass", gather, p, devices, flops, bandwidth, options)
        for name in WAYS:
            possible(p, name, products, name, p, devices[0], flops, bandwidth, options)
        for k in options.ranks:
            possible(p, f"rank {k}", fit, p, k, devices[0], flops, bandwidth, options)


def line(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def possible(p: int, what: str, measure: Callable, *arguments) -> None:
    """One measurement; that the card has no room for it is a result too."""
    import torch

    try:
        measure(*arguments)
    except torch.cuda.OutOfMemoryError as error:
        line(p, what, f"not possible: {str(error).splitlines()[0]}", "", "", "", "")


def limits(device: str, size: int) -> tuple[float, float]:
    """FLOP/s of a float32 product and bytes/s of a copy (read and written)."""
    import torch

    A = torch.rand(size, size, device=device)
    out = torch.empty_like(A)
    product = seconds(lambda: torch.mm(A, A, out=out), device)
    copy = seconds(lambda: out.copy_(A), device)
    return 2 * size**3 / product, 2 * A.nbytes / copy


def gather(p: int, devices: list[str], flops: float, bandwidth: float, options) -> None:
    """The pass as the package makes it, the way of the nonzeros to the cards included."""
    from nmfbench.statistics import Layout
    from nmfbench.statistics.grams import PartialGrams, gpu_bytes

    layout = Layout("", tuple(map(str, range(p))), options.block, method="dense")
    need = gpu_bytes(layout, len(devices), options.block) / 2**30
    X = random_block(options.block, p, options.nonzeros)
    reset_peak(devices)
    grams = PartialGrams(layout, devices)
    spent = seconds(lambda: grams.add(X), *devices, repeats=options.repeats)
    work = shares(grams.tiles, p, options.block, spent, flops * len(devices), bandwidth * len(devices))
    peak = f"{peak_gib(devices)} (asked for {need:.1f} GiB)"
    line(p, f"the pass, {len(devices)} devices", f"{options.block / spent:,.0f} cells/s", *work, "", peak)


# ---- the products of the pass, every way


def float32(X: sp.csr_matrix, block) -> Callable:
    return lambda a, b: block[:, a:b].T @ block[:, a:]


def corrected(X: sp.csr_matrix, block) -> Callable:
    """Each value as the sum of two that TF32 holds exactly (almost): three products of tensor cores."""
    high, low = split(block)
    return lambda a, b: (
        high[:, a:b].T @ high[:, a:] + (high[:, a:b].T @ low[:, a:] + low[:, a:b].T @ high[:, a:])
    )


def split(block):
    """Values with ten bits of mantissa, and what is left."""
    import torch

    high = (block.view(torch.int32) & _TF32_BITS).view(torch.float32)
    return high, block - high


def sparse(X: sp.csr_matrix, block) -> Callable:
    """The nonzeros of a tile's genes by the densified block; the nonzeros are sorted by gene before."""
    import torch

    from nmfbench.statistics.grams import TILE_ROWS

    by_gene, parts = X.T.tocsr(), {}
    for a in range(0, X.shape[1], TILE_ROWS):
        part = by_gene[a : a + TILE_ROWS]
        arrays = [torch.from_numpy(np.asarray(array)) for array in (part.indptr, part.indices, part.data)]
        parts[a] = torch.sparse_csr_tensor(*arrays, size=part.shape, device=block.device)
    return lambda a, b: parts[a] @ block[:, a:]


WAYS = {
    "products, float32": (float32, False),
    "products, TF32": (float32, True),
    "products, TF32 with correction": (corrected, True),
    "products, sparse by dense": (sparse, False),
}


def products(name: str, p: int, device: str, flops: float, bandwidth: float, options) -> None:
    """The products of one block and their float64 sum, without the way of the block to the card."""
    import torch

    from nmfbench.statistics.grams import TILE_ROWS

    make, tf32 = WAYS[name]
    X = random_block(options.block, p, options.nonzeros)
    reset_peak([device])
    block = torch.from_numpy(X.toarray()).to(device)
    tiles = [(a, min(a + TILE_ROWS, p)) for a in range(0, p, TILE_ROWS)]
    totals = [torch.zeros((b - a, p - a), dtype=torch.float64, device=device) for a, b in tiles]
    before, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, tf32
    try:
        product = make(X, block)

        def work() -> None:
            for (a, b), total in zip(tiles, totals, strict=True):
                total += product(a, b)

        spent = seconds(work, device, repeats=options.repeats)
        (a, b), width = tiles[0], min(TILE_ROWS, p)
        exact = block[:, a:b].double().T @ block[:, :width].double()
        error = float((product(a, b)[:, :width] - exact).abs().max() / exact.abs().max())
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    work = shares(tiles, p, options.block, spent, flops, bandwidth)
    line(p, name, f"{options.block / spent:,.0f} cells/s", *work, f"{error:.1e}", peak_gib([device]))


def shares(tiles, p: int, block: int, spent: float, flops: float, bandwidth: float) -> tuple[str, str]:
    """Of the arithmetic and of the bandwidth, as if every product were dense and in float32."""
    entries = sum((b - a) * (p - a) for a, b in tiles)
    # the float64 sum is read and written, the float32 product written and read
    moved = entries * (2 * 8 + 2 * 4)
    return f"{2 * block * entries / spent / flops:.0%}", f"{moved / spent / bandwidth:.0%}"


# ---- the fit


def fit(p: int, k: int, device: str, flops: float, bandwidth: float, options) -> None:
    import torch

    from nmfbench.models.autoencoder.exact import GramOperator
    from nmfbench.models.autoencoder.exact.coordinate import TiedObjective

    reset_peak([device])
    rng = np.random.default_rng(0)
    root = torch.rand(p, 64, device=device)
    K = root @ root.T
    K.diagonal().add_(1.0)
    operator = GramOperator(K, n_cells=10 * p, squared_norm=float(K.trace()), device=device)
    W = rng.random((p, k), dtype=np.float32) / p**0.5
    product = seconds(lambda: operator.image(W), device, repeats=options.repeats)
    problem = TiedObjective(operator, np.ascontiguousarray(W.T), penalty_W=1e-2)
    problem.refresh()
    problem.evaluate()

    def sweep() -> None:
        problem.sweep(1.8)
        problem.evaluate()

    whole = seconds(sweep, device, repeats=max(1, options.repeats // 2))
    for what, spent in (("product", product), ("iteration", whole)):
        work = f"{2 * p * p * k / spent / flops:.0%}", f"{4 * p * p / spent / bandwidth:.0%}"
        line(p, f"{what} at rank {k}", f"{1e3 * spent:.3g} ms", *work, "", peak_gib([device]))


def random_block(n: int, p: int, nonzeros: int) -> sp.csr_matrix:
    """A block of cells with so many nonzeros each."""
    rng = np.random.default_rng(0)
    nonzeros = min(nonzeros, p)
    step = p // nonzeros
    indices = np.arange(nonzeros) * step + rng.integers(step, size=(n, nonzeros))
    data = rng.random(n * nonzeros, dtype=np.float32) + 0.1
    indptr = np.arange(0, n * nonzeros + 1, nonzeros)
    return sp.csr_matrix((data, indices.ravel().astype(np.int32), indptr), shape=(n, p))


def seconds(work: Callable, *devices: str, repeats: int = 5) -> float:
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


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--genes", type=int, nargs="+", default=[20_000, 60_000])
    parser.add_argument("--ranks", type=int, nargs="+", default=[80, 256])
    parser.add_argument("--nonzeros", type=int, default=1000, help="of a cell")
    parser.add_argument("--block", type=int, default=4096, help="cells of a block")
    parser.add_argument("--devices", nargs="+", help="all CUDA devices by default")
    parser.add_argument("--size", type=int, default=8192, help="rows of the matrices that find the limits")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--rehearse", action="store_true", help="every line, small, on the processor")
    options = parser.parse_args(arguments)
    if options.rehearse:
        vars(options).update(REHEARSAL, devices=["cpu:0"])
    return options


if __name__ == "__main__":
    main()
