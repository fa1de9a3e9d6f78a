"""The device of a fit, checked before any work starts."""

from __future__ import annotations

import gc
import os
import platform
from collections.abc import Mapping
from pathlib import Path

import torch

from nmfbench.errors import DeviceError

DEVICES = ("auto", "cpu", "cuda", "mps")


def resolve_device(name: str, key: str = "device") -> torch.device:
    """The torch device that `name` asks for.

    Parameters
    ----------
    name : {"auto", "cpu", "cuda", "mps"}
        ``auto`` is the GPU where torch sees a CUDA device, else the CPU. ``cuda:1`` names one of several.
    key : str
        The key of the config that asks, for messages.

    Raises
    ------
    DeviceError
        If the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind = name.split(":")[0]
    if kind == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            f"{key}: a GPU was asked for and there is none",
            "a CUDA device that torch can use",
            f"{_torch_build()}; {_driver()}",
            f"run on a node with a GPU, with the CUDA build of torch, or set {key}: auto (or cpu)",
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise DeviceError(
            f"{key}: an Apple GPU was asked for and there is none",
            "a Metal device that torch can use",
            f"no Metal device; {_torch_build()}",
            f"run on a Mac with Apple silicon, or set {key}: auto (or cpu)",
        )
    return torch.device(name)


def free_bytes(device: torch.device) -> float | None:
    """Bytes that are free on a CUDA device for this process; None for another kind of device.

    What torch keeps of tensors that are gone is given back first: a fit of a few cells that compiles ahead
    may have had an XᵀX as large as the one to come.
    """
    if device.type != "cuda":
        return None
    gc.collect()
    torch.cuda.empty_cache()
    return float(torch.cuda.mem_get_info(device)[0])


def check_granted(environment: Mapping[str, str] = os.environ) -> None:
    """Refuse to train on the CPU in a job that asked its scheduler for a GPU.

    To be called first of all in such a job: it would hold the GPU for days without using it.

    Raises
    ------
    DeviceError
        If torch sees no GPU, with what the scheduler granted, the build of torch and the driver.
    """
    if torch.cuda.is_available():
        return
    job = environment.get("SLURM_JOB_ID")
    place = f"job {job} on {platform.node()}" if job else platform.node()
    if partition := environment.get("SLURM_JOB_PARTITION"):
        place += f" (partition {partition})"
    granted = environment.get("CUDA_VISIBLE_DEVICES")
    raise DeviceError(
        "device: a GPU was asked of the scheduler and torch sees none",
        "a CUDA device that torch can use",
        f"{place}, CUDA_VISIBLE_DEVICES {'not set' if granted is None else repr(granted)}; "
        f"{_torch_build()}; {_driver()}",
        "install the CUDA build of torch, let the profile name a partition with GPUs and load what its nodes "
        "need; or set device: cpu in the config, which asks for no GPU",
    )


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
