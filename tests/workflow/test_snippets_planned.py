"""Every `snakemake` line of the README that is about the demo plans what it says."""

from __future__ import annotations

import re
import shlex

import pytest

from snake import REPOSITORY, snakemake

LINES = [
    shlex.split(line, comments=True)[1:]
    for block in re.findall(r"```bash\n(.*?)```", (REPOSITORY / "README.md").read_text(), flags=re.DOTALL)
    for line in block.splitlines()
    if line.startswith("snakemake") and "config/demo.yaml" in line and "--report" not in line
]


@pytest.mark.slow
@pytest.mark.parametrize("words", LINES, ids=" ".join)
def test_a_line_of_the_readme_plans(words, tmp_path):
    words = [str(REPOSITORY / word) if word.startswith("config/") else word for word in words]
    snakefile = REPOSITORY / "workflow" / "Snakefile"
    call = snakemake("-n", "--snakefile", snakefile, *words, cwd=tmp_path, brief=True)
    assert call.code == 0, call.text
    first = "collect_partial_tables" if "partial_tables" in words else "simulate_dataset"
    assert re.search(rf"^{first} +1", call.text, flags=re.MULTILINE), call.text
    assert len(call.text.splitlines()) < 60
