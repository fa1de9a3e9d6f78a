"""The command ``nmfbench``: the workflow's models and scores for one file, without the workflow.

It holds no statistics of its own: what it computes, the jobs of the workflow compute with the same functions
and the same defaults, those of the config.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence

from nmfbench.errors import InputError
from nmfbench.job import EXIT_BAD_INPUT

#: Subcommand: module, and what it does.
COMMANDS = {
    "score": ("score", "score an embedding of an .h5ad: clusters and classifiers against its labels"),
    "fit": ("fit", "fit one model to the counts of an .h5ad"),
    "project": ("project", "embed other cells with the loadings of a fit"),
    "config": ("config", "check a config and the files it names before anything runs"),
    "show": ("show", "print the scores of a finished run"),
}

#: What the workflow says of its config, in the options of a command that reads none.
OPTIONS = {
    "check datasets.<name>.path in the config": "check the path that was given",
    "datasets.<name>.cell_type_column": "--cell-type",
    "datasets.<name>.donor_column": "--donor",
    "datasets.<name>.matrix.source": "--matrix",
    "datasets.<name>.min_cells_per_donor": "--min-cells",
    "`ranks` in the config, or keep more genes (datasets.<name>.genes)": "--rank",
    "device: auto (or cpu)": "--device auto (or cpu)",
    "in the config file (or the --config argument)": "in the options, as config/README.md lists the keys",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Returns
    -------
    int
        0, or 2 where the input cannot be used; the message stands on stderr.
    """
    parser = argparse.ArgumentParser(
        "nmfbench", description="Non-negative embeddings of single-cell atlases."
    )
    parser.add_argument("--version", action="store_true", help="print the version and stop")
    parsers = parser.add_subparsers(dest="command", metavar="command")
    for name, (module, words) in COMMANDS.items():
        one = parsers.add_parser(name, help=words, description=f"{words[0].upper()}{words[1:]}.")
        one.add_argument("--threads", type=int, help="threads (default: all that this process may use)")
        importlib.import_module(f"{__name__}.{module}").add_arguments(one)
    options = parser.parse_args(arguments)
    if options.version:
        from nmfbench import __version__

        print(__version__)  # noqa: T201
        return 0
    if options.command is None:
        parser.print_help()
        return EXIT_BAD_INPUT
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    options.threads = options.threads or len(os.sched_getaffinity(0))
    try:
        importlib.import_module(f"{__name__}.{COMMANDS[options.command][0]}").run(options)
    except InputError as error:
        if options.command != "config":
            error = in_options(error)
        sys.stderr.write(f"{error}\n")
        return EXIT_BAD_INPUT
    except BrokenPipeError:  # `nmfbench show | head`
        return 0
    return 0


def in_options(error: InputError) -> InputError:
    """The same message, its remedy in the options of the command line."""
    remedy = error.remedy
    for key, option in OPTIONS.items():
        remedy = remedy.replace(key, option)
    return InputError(error.thing, error.expected, error.got, remedy)
