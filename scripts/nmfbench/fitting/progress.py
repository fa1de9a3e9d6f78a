"""Progress of a fit: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import logging
import sys
import time

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Tell how far a fit has come.

    Parameters
    ----------
    name : str
        The model.
    total, done : int
        Epochs to come to, and epochs already behind.
    bar : bool or None
        True: a bar on stderr; False: lines through :mod:`logging`; None: a bar if stderr is a terminal.
    """

    def __init__(self, name: str, total: int, done: int = 0, bar: bool | None = None) -> None:
        self.name = name
        self.total = total
        self._bar = None
        self._last_line = -float("inf")
        if sys.stderr.isatty() if bar is None else bar:
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=done, desc=name, unit="epoch", file=sys.stderr)

    def update(self, row: dict) -> None:
        """Show the newest row of the history."""
        text = f"objective {row['objective']:.6g}"
        if "relative_error" in row:
            text += f", relative error {row['relative_error']:.4f}"
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(int(row["epoch"]) - self._bar.n)
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            log.info("%s: epoch %d of %d, %s", self.name, row["epoch"], self.total, text)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.close()
