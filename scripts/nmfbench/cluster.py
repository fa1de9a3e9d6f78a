"""What a cluster's profile says about the site, and what a job asks the scheduler for in its words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from nmfbench.errors import InputError

SPELLINGS = ("gpus", "gres", "none")


@dataclass(frozen=True)
class Site:
    """The site's keys among a profile's ``default-resources``; all None on a machine without a scheduler.

    Parameters
    ----------
    slurm_partition, gpu_partition : str or None
        Where jobs go that need no GPU, and those that do.
    gpu_request : {"gpus", "gres", "none"} or None
        How a GPU is asked for: ``--gpus=1``, ``--gres=gpu:1``, or not at all.
    gpu_model : str or None
        The kind of GPU, where the site has several.
    max_gb, max_hours, gpu_max_hours : int or None
        The most that any job may ask for; what grows with the input and the attempt stops there.
    fits_per_gpu_job : int or None
        At most so many short fits share a GPU job (:mod:`nmfbench.shared_gpu`); None and 1: none does.

    Raises
    ------
    InputError
        If `gpu_request` is none of the three words.
    """

    slurm_partition: str | None = None
    gpu_partition: str | None = None
    gpu_request: str | None = None
    gpu_model: str | None = None
    max_gb: int | None = None
    max_hours: int | None = None
    gpu_max_hours: int | None = None
    fits_per_gpu_job: int | None = None

    def __post_init__(self) -> None:
        if self.gpu_request is not None and self.gpu_request not in SPELLINGS:
            raise InputError(
                "the profile: default-resources: gpu_request",
                f"one of {', '.join(SPELLINGS)}",
                repr(self.gpu_request),
                "mend the line in profiles/slurm/profile.yaml",
            )

    @classmethod
    def of(cls, default_resources: Mapping[str, Any] | None) -> Site:
        """Read the keys from the profile as Snakemake parsed it.

        Parameters
        ----------
        default_resources : mapping or None
            Name to a number, a text, or a Snakemake ``Resource`` (whose ``raw`` is what was written).
        """
        given = {key: getattr(value, "raw", value) for key, value in dict(default_resources or {}).items()}
        known = {field.name for field in fields(cls)}
        # an expression that is a text stands in quotes of its own
        return cls(
            **{
                key: value.strip("'\"") if isinstance(value, str) else value
                for key, value in given.items()
                if key in known
            }
        )

    @property
    def schedules(self) -> bool:
        """Whether jobs are sent to a scheduler that knows about GPUs."""
        return self.gpu_request is not None

    @property
    def shares_gpu_jobs(self) -> bool:
        """Whether short fits share the jobs that hold a GPU."""
        return self.gpu_request not in (None, "none") and (self.fits_per_gpu_job or 1) > 1

    def gpu_resources(self, n_gpus: int) -> dict[str, int | str | None]:
        """Resources of a job that wants `n_gpus` GPUs, in the site's words; None leaves a key out.

        The partition is chosen here as well: a job without a GPU has no business where the GPUs are.
        """
        if self.gpu_request == "none":
            n_gpus = 0
        by_gres = n_gpus > 0 and self.gpu_request == "gres"
        kind = f"gpu:{self.gpu_model}" if self.gpu_model else "gpu"
        return {
            "gpu": 0 if by_gres else n_gpus,
            "gpu_model": self.gpu_model if n_gpus and not by_gres else None,
            "gres": f"{kind}:{n_gpus}" if by_gres else None,
            "slurm_partition": (self.gpu_partition if n_gpus else None) or self.slurm_partition,
        }

    def megabytes(self, wanted: float) -> int:
        """A request for memory, at most what the site has."""
        return int(wanted if self.max_gb is None else min(wanted, 1000 * self.max_gb))

    def minutes(self, wanted: float, n_gpus: int = 0) -> int:
        """A request for time, at most what the site grants jobs with or without a GPU."""
        limit = self.gpu_max_hours if n_gpus and self.gpu_max_hours else self.max_hours
        return int(wanted if limit is None else min(wanted, 60 * limit))


def do_without_accounting(plugin: Any) -> None:
    """Let Snakemake's SLURM plugin work where `sacct`, `sacctmgr` or `sshare` is not installed.

    It asks them which account to take and whether there is such an account, and ends in FileNotFoundError
    where they are not on the PATH. Then no account is named, or the one in the profile is taken at its word.

    Parameters
    ----------
    plugin : module
        ``snakemake_executor_plugin_slurm`` (2.8.0).
    """
    if getattr(plugin, "_nmfbench_knows", False):
        return
    guess, validate = plugin.get_account, plugin.validate_account

    def get_account(logger: Any) -> str | None:
        try:
            return guess(logger)
        except FileNotFoundError:
            return None

    def validate_account(account: str, logger: Any) -> str:
        try:
            return validate(account, logger)
        except FileNotFoundError as error:
            logger.warning(f"No {error.filename} here: the SLURM account {account!r} is taken as it is.")
            return account

    plugin.get_account, plugin.validate_account, plugin._nmfbench_knows = get_account, validate_account, True


def gpu_asked(resources: Mapping[str, Any]) -> bool:
    """Whether the scheduler was asked for a GPU for the job that has these resources.

    On a machine without a scheduler nobody was asked: ``device: auto`` may then well end on the CPU.
    """
    by_gres = "gpu" in str(resources.get("gres", ""))
    return "gpu_request" in resources.keys() and (int(resources.get("gpu", 0)) > 0 or by_gres)  # noqa: SIM118
