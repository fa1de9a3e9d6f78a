"""Names of files and folders that are made of names in the data."""

from __future__ import annotations


def path_name(column: str) -> str:
    """A column's name as it stands in names of files: letters, digits, dots, hyphens and underscores."""
    return "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "_" for letter in column
    )
