"""The script for GPUs runs on the processor from its first line to its last, and its products are right."""

from __future__ import annotations

import importlib.util

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
