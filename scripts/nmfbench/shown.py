"""Text of the data as pages show it: no name may turn, hide or flood what stands beside it."""

from __future__ import annotations

import re

LONGEST = 400  # letters
#: Marks of writing direction; an unclosed one turns the rest of the line.
_DIRECTION = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def shown(text: object, longest: int = LONGEST) -> str:
    """One line without marks of writing direction and control characters, cut to `longest` letters."""
    line = _CONTROL.sub(" ", _DIRECTION.sub("", str(text)[: 4 * longest])).strip()
    return line if len(line) <= longest else line[: longest - 1].rstrip() + "…"
