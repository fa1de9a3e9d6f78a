"""Config files as they were written, before YAML makes a mapping of them and forgets what stood there twice.

``python -m nmfbench.config.files mine.yaml`` checks a file without Snakemake, and names file and line.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from nmfbench.errors import InputError


def check_files(paths: Iterable[str | Path]) -> None:
    """Refuse config files that are no YAML (JSON is YAML, too) or hold a key twice.

    Raises
    ------
    InputError
        Naming the file and the lines.
    """
    for path in map(Path, paths):
        if path.is_file():
            _check(path)


def missing_sources(datasets: Mapping[str, Any], results: str | Path) -> list[InputError]:
    """What to say of datasets whose file is neither there nor needed any more.

    Parameters
    ----------
    datasets : mapping of str to DatasetConfig
    results : path
        Where the filtered counts of a run before may lie.
    """
    return [
        InputError(
            f"datasets.{name}.path: {dataset.path}",
            "an .h5ad file that is there, or one that another rule makes",
            f"no such file, looked for from {Path.cwd()}",
            "mend the path; a relative one begins where snakemake is called, or at its --directory",
        )
        for name, dataset in datasets.items()
        if dataset.path and not dataset.joined and not Path(dataset.path).exists()
        if not Path(results, name, "filtered.h5ad").exists()
    ]


def _check(path: Path) -> None:
    remedy = "mend the line"
    try:
        text = path.read_text(encoding="utf-8")
        nodes = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}", "text in UTF-8", str(error), "save the file as UTF-8") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}: line {mark.line + 1}, column {mark.column + 1}" if mark else str(path)
        got = "; ".join(part for part in (error.context, error.problem) if part)
        raise InputError(where, "YAML", got or "something else", remedy) from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}", "YAML", " ".join(str(error).split()), remedy) from None
    if len(nodes) > 1:
        line = nodes[1].start_mark.line + 1
        raise InputError(f"{path}: line {line}", "one document", "a second one after ---", "join the two")
    if doubled := [found for node in nodes if node is not None for found in _doubled(node, ())]:
        raise InputError(
            f"{path}",
            "every key once",
            "; ".join(f"{key!r} in line {first} and again in line {again}" for key, first, again in doubled),
            "join the two sections; only the last would count",
        )


def _doubled(node: Any, above: tuple[str, ...], seen: tuple[int, ...] = ()) -> list[tuple[str, int, int]]:
    """Keys that stand twice in one mapping, with their lines."""
    if id(node) in seen:  # an anchor inside itself
        return []
    seen = (*seen, id(node))
    found, lines = [], {}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = str(getattr(key, "value", key))
            line = key.start_mark.line + 1
            if name in lines and name != "<<":
                found.append((".".join([*above, name]), lines[name], line))
            lines.setdefault(name, line)
            found += _doubled(value, (*above, name), seen)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            found += _doubled(value, (*above, str(number)), seen)
    return found


def main(paths: list[str]) -> int:
    """Check config files; the exit status."""
    from nmfbench.config import load_config

    try:
        for path in paths:
            if not Path(path).is_file():
                raise InputError(path, "a config file", "no such file", "mend the path")
            check_files([path])
            load_config(yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}, where=path)
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
