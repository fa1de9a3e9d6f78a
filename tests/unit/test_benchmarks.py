"""The script for GPUs runs on the processor from its first line to its last, and its products are right."""

from __future__ import annotations

import importlib
import importlib.util
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")


@pytest.fixture
def gpu_statistics(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "scripts"))
    path = repository / "benchmarks" / "gpu_statistics.py"
    spec = importlib.util.spec_from_file_location("gpu_statistics", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore:Sparse")
def test_the_gpu_script_can_be_rehearsed(gpu_statistics, capsys):
    gpu_statistics.main(["--rehearse"])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if "| " in line][
        2:
    ]
    expected = ["the pass, 1 devices", *gpu_statistics.WAYS]
    expected += [f"{what} at rank {k}" for k in (4, 8) for what in ("product", "iteration")]
    assert [row[:2] for row in rows] == [[str(p), what] for p in (300, 1500) for what in expected]
    assert all(float(row[2].split()[0].replace(",", "")) > 0 for row in rows)
    errors = [float(row[5]) for row in rows if row[1] in gpu_statistics.WAYS]
    assert len(errors) == 8
    assert max(errors) < 2e-6


def test_the_correction_makes_up_for_what_tf32_drops(gpu_statistics):
    X = gpu_statistics.random_block(200, 40, 20)
    block = torch.from_numpy(X.toarray())
    high, low = gpu_statistics.split(block)
    mantissa, _ = np.frexp(high.numpy())
    assert (mantissa * 2**11 == np.round(mantissa * 2**11)).all(), "what TF32 holds exactly"
    assert torch.equal(high + low, block)
    exact = block.double().T @ block.double()

    def error(product):
        return float((product - exact).abs().max() / exact.abs().max())

    assert error(high.T @ high) > 1e-4
    assert error(gpu_statistics.corrected(X, block)(0, 40)) < 2e-6


@pytest.fixture
def gpu_training(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    return importlib.import_module("gpu_training")


def test_the_training_script_says_that_there_is_no_card(gpu_training, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_training.main([]) == 3
    assert "nothing was measured" in capsys.readouterr().out


@pytest.mark.parametrize(
    "part",
    [
        *("minibatch", "pass", "to_objective", "precision", "counts", "scores", "processor"),
        pytest.param("atlas", marks=pytest.mark.slow),
    ],
)
def test_a_part_of_the_training_script_can_be_rehearsed(gpu_training, part, capsys, tmp_path, monkeypatch):
    from nmfbench.models.autoencoder import on_card

    monkeypatch.setattr(on_card, "CARDS", on_card.CARDS)  # which the script changes
    out = tmp_path / "lines.json"
    assert gpu_training.main(["--device", "cpu", "--small", "--only", part, "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    lines = [line for line in found["lines"] if line["part"] == part]
    assert lines
    assert found["small"]
    for line in lines:
        assert line["met"] is None, "toy sizes are held to no target"
        assert line["reached"] is None or line["reached"] >= 0
        assert line["what"] in capsys.readouterr().out or line is not lines[0]


def test_lines_are_held_to_floors_and_ceilings(gpu_training):
    from gpu_parts.registry import Line

    assert [Line("a", x, "ms", 1.0).met for x in (0.5, 1.5, None)] == [True, False, None]
    assert [Line("a", x, "x", 3.0, at_most=False).met for x in (2.0, 3.0)] == [False, True]
    assert Line("a", 1.0, "ms").met is None


def test_the_readmes_figure_is_drawn_from_the_page(repository, tmp_path):
    path = repository / "benchmarks" / "real_cells_figure.py"
    spec = importlib.util.spec_from_file_location("real_cells_figure", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    first, second = map(module.scores_of, module.tables(module.PAGE.read_text()))
    assert [len(names) for _, names in (first, second)] == [8, 4]
    scores = first[0].set_index(["model", "label", "metric"])["value"]
    assert scores["base_nmf", "cell_type", "ARI"] == 0.457
    assert scores["pnmf_donor", "donor_id", "AUROC"] == 0.789
    assert scores.between(0, 1).all()
