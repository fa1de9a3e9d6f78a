"""What the jobs of a plan ask for: cores, memory, time, GPUs and disk, summed by rule."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nmfbench.expected import ExpectedSizes

_COLUMNS = ("rule", "jobs", "cores", "memory", "time", "CPU hours", "GPU hours", "disk")


class Asked:
    """Requests of jobs by rule.

    Parameters
    ----------
    sizes : ExpectedSizes, optional
        What files will take; without it the disk stays empty.
    """

    def __init__(self, sizes: ExpectedSizes | None = None) -> None:
        self.sizes = sizes
        self.rules: dict[str, dict[str, float]] = {}

    def add(self, told: Mapping[str, Any]) -> None:
        """Take over the request of one job, as Snakemake's log tells it."""
        resources = told.get("resources") or {}
        minutes, memory = _number(resources, "runtime"), _number(resources, "mem_mb")
        cores = float(told.get("threads") or 1)
        gpus = _number(resources, "gpu") or _in_gres(resources)
        rule = self.rules.setdefault(
            str(told["rule_name"]),
            dict.fromkeys(("jobs", "cores", "memory", "minutes", "cpu_hours", "gpu_hours", "megabytes"), 0.0),
        )
        rule["jobs"] += 1
        for name, value in (("cores", cores), ("memory", memory), ("minutes", minutes)):
            rule[name] = max(rule[name], value)
        rule["cpu_hours"] += cores * minutes / 60
        rule["gpu_hours"] += gpus * minutes / 60
        if self.sizes is not None:
            rule["megabytes"] += self.sizes.megabytes(str(file) for file in told.get("output") or ())

    def __str__(self) -> str:
        """A line for each rule in the order of the work, and the sums in a sentence."""
        rows = [list(_COLUMNS)]
        order = sorted(self.rules.items(), key=lambda item: item[1]["minutes"] == 0)
        for name, rule in order:
            rows.append(
                [
                    name,
                    f"{rule['jobs']:,.0f}",
                    f"{rule['cores']:,.0f}",
                    _memory(rule["memory"]),
                    _time(rule["minutes"]),
                    f"{rule['cpu_hours']:,.1f}",
                    f"{rule['gpu_hours']:,.1f}" if rule["gpu_hours"] else "",
                    _memory(rule["megabytes"]),
                ]
            )
        widths = [max(len(row[place]) for row in rows) for place in range(len(_COLUMNS))]
        lines = [
            "  ".join(
                cell.ljust(width) if place == 0 else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        return "\n".join([*lines, "", self.sentence()])

    def sentence(self) -> str:
        """The sums: jobs, CPU and GPU hours, the largest memory, disk."""

        def total(name: str) -> float:
            return sum(rule[name] for rule in self.rules.values())

        largest = max(self.rules.items(), key=lambda item: item[1]["memory"], default=("", {"memory": 0.0}))
        text = f"{total('jobs'):,.0f} jobs ask for at most {total('cpu_hours'):,.0f} CPU hours"
        text += f" and {total('gpu_hours'):,.0f} GPU hours" if total("gpu_hours") else ""
        text += f"; the largest memory is {_memory(largest[1]['memory'])} ({largest[0]})"
        text += f"; files will take about {_memory(total('megabytes'))}" if self.sizes is not None else ""
        return text + ". Requests are limits with room: most jobs take a fraction of them."


def _number(resources: Any, name: str) -> float:
    """A resource as a number; 0 where it is not asked for, or known only when the job starts."""
    value = resources.get(name) if hasattr(resources, "get") else getattr(resources, name, None)
    return float(value) if isinstance(value, int | float) else 0.0


def _in_gres(resources: Any) -> float:
    """GPUs in words such as ``gpu:a100:1``."""
    words = str(resources.get("gres") if hasattr(resources, "get") else getattr(resources, "gres", ""))
    found = re.fullmatch(r"gpu(?::[^:]+)?:(\d+)", words)
    return float(found.group(1)) if found else 0.0


def _memory(megabytes: float) -> str:
    """MB or GB (of 1,000 MB, as schedulers count)."""
    if not megabytes:
        return ""
    return f"{megabytes:,.0f} MB" if megabytes < 1000 else f"{megabytes / 1000:,.1f} GB"


def _time(minutes: float) -> str:
    """Hours and minutes."""
    return f"{int(minutes // 60)}:{int(minutes % 60):02}" if minutes else ""
