"""Run the blocks of a tutorial and write what they print, and the figures they save, into the page.

A block of ``bash`` or ``python`` is run where a block of ``text`` follows it: that is its output. Python
blocks without one are run too, as they save figures; bash blocks without one are only shown (whole
workflows). A block of ``yaml`` is a file, named by the comment in its first line. A figure
``figures/NAME.png`` of the page is the NAME.png that a block saved.

    python docs/site/execute.py docs/tutorials/from_csv_to_figures.md --link results=results
    python docs/site/execute.py docs/tutorials/from_h5ad_to_table.md --link kang2018_pbmc_ifnb.h5ad=PATH
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

_BLOCK = re.compile(r"^```(bash|python|yaml|text)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FIGURE = re.compile(r"\]\(figures/([\w.-]+\.png)\)")


def run_block(kind: str, code: str, folder: Path) -> str:
    """What a block prints: stdout, and of a command that refuses its message too.

    Raises
    ------
    RuntimeError
        If Python fails, or a command with a traceback.
    """
    command = ["bash", "-c", code] if kind == "bash" else [sys.executable, "-c", code]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PATH": path, "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        check=False,
    )
    refused = kind == "bash" and done.returncode == 2 and "Traceback" not in done.stderr
    if done.returncode and not refused:
        raise RuntimeError(f"{code}\nended with {done.returncode}:\n{done.stderr}")
    return done.stdout + (done.stderr if refused else "")


def execute(page: str, folder: Path) -> str:
    """The page with the outputs of its blocks, run one after the other in a folder.

    Raises
    ------
    ValueError
        If a yaml block does not begin with the name of its file.
    """
    blocks = list(_BLOCK.finditer(page))
    parts, end = [], 0
    for block, after in zip(blocks, [*blocks[1:], None], strict=True):
        kind, code = block.groups()
        output = after if after is not None and after.group(1) == "text" else None
        if kind == "yaml":
            name = re.match(r"# (\S+\.yaml)\n", code)
            if name is None:
                raise ValueError(f"a yaml block begins with the name of its file: {code}")
            (folder / name.group(1)).write_text(code)
        elif kind == "python" or (kind == "bash" and output is not None):
            printed = run_block(kind, code, folder)
            if output is not None:
                lines = "\n".join(line.rstrip() for line in printed.rstrip().splitlines())
                parts += [page[end : output.start()], f"```text\n{lines}\n```"]
                end = output.end()
    return "".join([*parts, page[end:]])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("page", type=Path)
    parser.add_argument("--link", action="append", default=[], metavar="NAME=PATH", help="what blocks read")
    options = parser.parse_args()
    text = options.page.read_text()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for link in options.link:
            here, _, there = link.partition("=")
            (folder / here).symlink_to(Path(there).resolve())
        options.page.write_text(execute(text, folder))
        for figure in _FIGURE.findall(text):
            kept = options.page.parent / "figures" / figure
            kept.parent.mkdir(exist_ok=True)
            shutil.copyfile(folder / figure, kept)


if __name__ == "__main__":
    main()
