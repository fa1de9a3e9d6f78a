"""The tutorials are executed pages: what stands below a block is what it prints."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
TUTORIALS = sorted((REPOSITORY / "docs" / "tutorials").glob("*.md"))
PAGE = """
```yaml
# mine.yaml
ranks: [3]
```

```bash
cat mine.yaml
```

```text
what it was
```

```python
open("made.txt", "w").write("made")
```

```bash
exit 7
```

```python
print(open("made.txt").read(), "  ")
```

```text
```
"""


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("execute", REPOSITORY / "docs" / "site" / "execute.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def outputs(page: str) -> list[str]:
    return re.findall(r"^```text\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)


def test_outputs_are_written_and_nothing_else_is_changed(tool, tmp_path):
    done = tool.execute(PAGE, tmp_path)
    assert outputs(done) == ["# mine.yaml\nranks: [3]\n", "made\n"]
    assert re.sub(r"```text\n.*?```", "", done, flags=re.DOTALL) == re.sub(
        r"```text\n.*?```", "", PAGE, flags=re.DOTALL
    )
    assert tool.execute(done, tmp_path) == done


def test_a_message_of_refusal_is_an_output_and_a_failure_is_none(tool, tmp_path):
    assert tool.run_block("bash", "echo refused >&2; exit 2", tmp_path) == "refused\n"
    with pytest.raises(RuntimeError, match="no such column"):
        tool.run_block("python", "raise KeyError('no such column')", tmp_path)
    with pytest.raises(RuntimeError):
        tool.run_block("bash", "exit 1", tmp_path)
    with pytest.raises(ValueError, match="name of its file"):
        tool.execute("```yaml\nranks: [3]\n```\n", tmp_path)


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_every_output_of_a_tutorial_has_its_block_and_every_figure_its_file(tool, page):
    text = page.read_text()
    kinds = [kind for kind, _ in tool._BLOCK.findall(text)]
    assert "text" in kinds
    follows = [kinds[i - 1] for i, kind in enumerate(kinds) if kind == "text" and i]
    assert kinds[0] != "text"
    assert set(follows) <= {"bash", "python"}
    for figure in tool._FIGURE.findall(text):
        assert f'"{figure}"' in text.replace(f"figures/{figure}", ""), "no block saves it"
        assert (page.parent / "figures" / figure).is_file()


@pytest.mark.real
@pytest.mark.slow
def test_the_tutorial_on_real_cells_prints_what_it_says(tool, tmp_path):
    given = os.environ.get("NMFBENCH_REAL_H5AD")
    if not given:
        pytest.skip("NMFBENCH_REAL_H5AD is not set")
    if Path(given).name != "kang2018_pbmc_ifnb.h5ad":
        pytest.skip("the tutorial is about kang2018_pbmc_ifnb.h5ad")
    (tmp_path / "kang2018_pbmc_ifnb.h5ad").symlink_to(given)
    text = (REPOSITORY / "docs" / "tutorials" / "from_h5ad_to_table.md").read_text()
    done = tool.execute(text, tmp_path)

    def words(page):  # other processors round otherwise
        return re.sub(r"\d\.\d+", "0.0", page)

    assert words(done) == words(text)
    for new, old in zip(outputs(done), outputs(text), strict=True):
        numbers = [[float(n) for n in re.findall(r"\d\.\d{3}", one)] for one in (new, old)]
        assert numbers[0] == pytest.approx(numbers[1], abs=0.1)
