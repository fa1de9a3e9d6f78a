"""Every caption of the report renders without a warning, from the wildcards of its rule and no others."""

from __future__ import annotations

import io
import re
from pathlib import Path
from types import SimpleNamespace

import jinja2
import pandas as pd
import pytest
from docutils.core import publish_parts

from nmfbench.grid import ACROSS, COMPARISON, PROJECTION

REPOSITORY = Path(__file__).parents[2]
REPORT = REPOSITORY / "workflow" / "report"
FIT = "{dataset}/{model}/rank-{rank}/seed-{seed}"
SMK = "\n".join(path.read_text() for path in sorted((REPOSITORY / "workflow" / "rules").glob("*.smk")))


def wildcards(caption: str) -> set[str]:
    """Wildcards of the outputs that this caption stands at; those of all that share it."""
    paths = re.findall(rf'"([^"\n]+)",\s*caption="\.\./report/{caption}\.rst"', SMK)
    paths += ["{dataset}"] * len(re.findall(rf'page\("[^"]+", "{caption}",', SMK))
    if caption.endswith("_csv"):  # of many outputs of one job
        paths += ["{dataset}"]
    names = {
        "<fit>": FIT,
        "{FIRST_FIT}": FIT,
        "{COMPARISON}": COMPARISON,
        "{PROJECTION}": PROJECTION,
        "{ACROSS}": ACROSS,
    }
    for name, pattern in names.items():
        paths = [path.replace(name, pattern) for path in paths]
    assert paths, f"no rule has the caption {caption}"
    found = [set(re.findall(r"\{+(\w+)", path)) for path in paths]
    return set.intersection(*found)


def rendered(text: str, **given) -> str:
    """HTML of a caption; docutils says what it is not content with on the stream."""
    said = io.StringIO()
    text = (
        jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=False)
        .from_string(text)
        .render(**given)
    )
    body = publish_parts(text, writer_name="html", settings_overrides={"warning_stream": said})["html_body"]
    assert said.getvalue() == ""
    return body


CAPTIONS = sorted(path.stem for path in REPORT.glob("*.rst") if path.stem != "workflow")


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("caption", CAPTIONS)
def test_a_caption_says_only_what_its_rule_knows(caption):
    names = wildcards(caption)
    given = SimpleNamespace(wildcards={name: f"some_{name}" for name in names}, config={})
    body = rendered((REPORT / f"{caption}.rst").read_text(), snakemake=given, categories={}, files=[])
    assert "system-message" not in body
    assert len(body) > 150


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("folder", "failures", "absent"),
    [("tables", "train: memory", "missing"), ("partial_tables", "train: not applicable", "not applicable")],
)
def test_the_first_page_begins_with_the_leaderboard(folder, failures, absent, tmp_path):
    place = tmp_path / "results" / "atlas" / folder
    place.mkdir(parents=True)
    board = {"model": "m|x", "display_name": "M|X_", "rank": 8, "cell_type_NMI": 0.5, "donor_id_NMI": None}
    board |= {"train_seconds": 2.0, "present": 3, "expected": 4, "failures": failures}
    pd.DataFrame([board]).to_csv(place / "leaderboard.tsv", sep="\t", index=False, na_rep="NA")
    (place / "leaderboard.txt").write_text("M|X_ keeps *cell types* apart best.")
    record = SimpleNamespace(path=place / "leaderboard.html")
    text = (REPORT / "workflow.rst").read_text()
    links = "\n\n" + "\n".join(
        f".. _{name}: javascript:x" for name in set(re.findall(r"\b([A-Z]\w+)_(?=[ ,;.])", text))
    )
    body = rendered(text + links, categories={"Overview": {"all": [record]}}, files=[], snakemake=None)
    assert "keeps *cell types* apart best" in body
    assert "0.500" in body
    assert f"<td>{absent}</td>" in body
    assert f"3 of 4 ({failures})" in body
    assert ("unfinished" in body) == (folder == "partial_tables")
    assert body.index("keeps *cell types*") < body.index("Read on")
