"""What a part of the benchmark is given and gives back, and the list of all parts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Line:
    """A line of the table.

    Attributes
    ----------
    what : str
    reached : float or None
        What was measured; None: it was not, and `beside` says why.
    unit : str
    target : float or None
        What it should reach; None: nothing is asked of it.
    at_most : bool
        Whether the target is a ceiling; else a floor.
    beside : str
        The peer's figure, an error, how often it was taken.
    """

    what: str
    reached: float | None
    unit: str
    target: float | None = None
    at_most: bool = True
    beside: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None where there is none, or no figure."""
        if self.target is None or self.reached is None:
            return None
        return self.reached <= self.target if self.at_most else self.reached >= self.target


@dataclass
class Bench:
    """Where a part runs, how large, and what parts leave to one another."""

    device: torch.device
    small: bool
    kept: dict[str, object] = field(default_factory=dict)

    @property
    def on_card(self) -> bool:
        return self.device.type == "cuda"

    def wait(self) -> None:
        """Until the card has done all that it was given."""
        if self.on_card:
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], object], repeats: int, warm: int = 3) -> float:
        """Mean seconds of a call, after some that do not count; small sizes are called once."""
        repeats, warm = (1, 0) if self.small else (repeats, warm)
        for _ in range(warm):
            work()
        self.wait()
        began = time.perf_counter()
        for _ in range(repeats):
            work()
        self.wait()
        return (time.perf_counter() - began) / repeats


Part = Callable[[Bench], Iterator[Line]]
PARTS: dict[str, Part] = {}


def part(name: str) -> Callable[[Part], Part]:
    """Enter a generator of lines under a name that `--only` takes; parts run in the order of their entry."""

    def enter(function: Part) -> Part:
        PARTS[name] = function
        return function

    return enter
