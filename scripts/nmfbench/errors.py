"""The one way to tell a person that their input cannot be used."""

from __future__ import annotations


class InputError(ValueError):
    """Input that cannot be used, said so that the reader can mend it.

    Parameters
    ----------
    thing : str
        What is wrong and where: the file, then the field inside it.
    expected : str
        What would have been accepted.
    got : str
        What was found instead, with numbers or names.
    remedy : str
        What to do next.

    Examples
    --------
    >>> print(InputError("cells.h5ad: obs", "a column 'donor_id'", "columns 'cell_type', 'donor'",
    ...                  "set datasets.<name>.donor_column in the config"))
    cells.h5ad: obs
      expected:   a column 'donor_id'
      got:        columns 'cell_type', 'donor'
      what to do: set datasets.<name>.donor_column in the config
    """

    def __init__(self, thing: str, expected: str, got: str, remedy: str) -> None:
        self.thing = thing
        self.expected = expected
        self.got = got
        self.remedy = remedy
        super().__init__(thing, expected, got, remedy)

    def __str__(self) -> str:
        return (
            f"{self.thing}\n"
            f"  expected:   {self.expected}\n"
            f"  got:        {self.got}\n"
            f"  what to do: {self.remedy}"
        )


class NotApplicable(InputError):
    """What was asked for has no meaning for these data; no other data or settings are wrong."""

    @property
    def reason(self) -> str:
        """One line for tables and figures."""
        return f"{self.thing}: {self.got}, where {self.expected} would be needed"


class DeviceError(InputError):
    """The device that a fit was to run on is not there."""


def unwritable(error: OSError, folder: str) -> InputError:
    """Say that nothing can be written to the folder of the results."""
    return InputError(
        f"{error.filename or folder}: it cannot be written",
        "a folder of results that can be written to, with room in it",
        error.strerror or str(error),
        f"mend the permissions of {folder}, free space, or run elsewhere (snakemake --directory FOLDER)",
    )
