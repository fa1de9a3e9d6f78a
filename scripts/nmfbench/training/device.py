"""The device of a fit, checked before any work starts."""

from __future__ import annotations

from pathlib import Path

import torch

from nmfbench.errors import InputError

DEVICES = ("auto", "cpu", "cuda", "mps")


def resolve_device(name: str) -> torch.device:
    """The torch device that `name` asks for.

    Parameters
    ----------
    name : {"auto", "cpu", "cuda", "mps"}
        ``auto`` is the GPU where torch sees a CUDA device, else the CPU. ``cuda:1`` names one of several.

    Raises
    ------
    InputError
        If the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind = name.split(":")[0]
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "device: a GPU was asked for and there is none",
            "a CUDA device that torch can use",
            f"{_torch_build()}; {_driver()}",
            "run on a node with a GPU, with the CUDA build of torch, or set device: auto (or cpu)",
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise InputError(
            "device: an Apple GPU was asked for and there is none",
            "a Metal device that torch can use",
            f"no Metal device; {_torch_build()}",
            "run on a Mac with Apple silicon, or set device: auto (or cpu)",
        )
    return torch.device(name)


def _torch_build() -> str:
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a build without CUDA"
    return f"torch {torch.__version__}, {built}"


def _driver() -> str:
    version = Path("/proc/driver/nvidia/version")
    try:
        first = version.read_text().splitlines()[0]
    except (OSError, IndexError):
        return "no NVIDIA driver is loaded"
    return (
        f"driver: {first}, {torch.cuda.device_count() if torch.version.cuda else 0} devices visible to torch"
    )
