"""Numbers that move demand a raised revision: what a git pull runs again is decided by hand."""

from __future__ import annotations

import pytest
import yaml

from golden import FILE, numbers, revision_of, stages

KEPT = yaml.safe_load(FILE.read_text())
TOLERANCE = 1e-4  # of another processor's last bits, after a few steps of a fit in single precision


@pytest.mark.parametrize("stage", list(stages()))
def test_numbers_move_only_with_a_raised_revision(stage):
    assert stage in KEPT, f"{stage} is new: run `python tests/unit/golden.py`"
    kept = dict(KEPT[stage])
    revision = kept.pop("revision")
    assert revision_of(stage) == revision, (
        f"the revision of {stage} was raised from {revision}: run `python tests/unit/golden.py`"
    )
    found = numbers(stage)
    assert found == pytest.approx(kept, rel=TOLERANCE), (
        f"{stage} gives other numbers than before, so that results of users are out of date: raise its "
        "REVISION (nmfbench/revisions.py; of a model: on its card), then run `python tests/unit/golden.py`"
    )


def test_no_stage_is_kept_that_is_gone():
    assert set(KEPT) == set(stages())
