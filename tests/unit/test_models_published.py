"""The published settings reproduce the published training, step for step, given the same batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import reference_models as dense
from nmfbench.config import load_config
from nmfbench.models import AENMF, CAENMF1, CAENMF2
from nmfbench.models.labels import FitData, encode_conditions, encode_strata
from nmfbench.models.start import start_loadings
from nmfbench.rows.memory import InMemoryRows

MODELS = {"ae_nmf": AENMF, "cae_nmf1": CAENMF1, "cae_nmf2": CAENMF2}


def published(name):
    """The estimator of `training: published` in the config, with smaller batches and an earlier warm-up."""
    sooner = {"warmup_epochs": 2} if name == "cae_nmf1" else {}
    section = {"training": "published", "batch_size": 50, **sooner}
    config = load_config({"datasets": {"d": {"path": "cells.h5ad"}}, "models": {name: section}})
    settings = config.models[name].model_dump(exclude={"kind", "display_name", "training"})
    return MODELS[name](4, **settings)


@pytest.mark.parametrize("name", MODELS)
def test_trajectory(name):
    X, _, donor, kind = dense.planted(n=180, p=40)
    model = published(name)
    assert model.solver == "minibatch"
    data = FitData(InMemoryRows(X), encode_conditions(donor, 180), encode_strata(kind, 180))
    model.seed_ = 3
    W = start_loadings(data.source, 4, "uniform", 3, unit_rows=model.row_norm, device=torch.device("cpu"))
    problem = model._batch_objective(data, W)
    sampler = model._sampler(data, 3)
    whole = torch.from_numpy(X.toarray())
    codes = data.conditions.codes[:, 0]

    def loss(epoch, rows, **weights):
        x = whole[rows]
        if name == "ae_nmf":
            return dense.ae_nmf_loss(x, **weights, penalty_W=1e-2)
        if name == "cae_nmf2":
            return dense.cae_nmf2_loss(x, **weights, donors=codes[rows], penalty_W=1e-2, penalty_U=5e-2)
        on = epoch >= 2
        return dense.cae_nmf1_loss(
            x,
            **weights,
            C=dense.one_hot(codes[rows], 3),
            types=kind[rows],
            penalty_W=1e-2,
            penalty_U=1e-1,
            gamma=1e-3 * on,
            eta=5e-4 * on,
        )

    start = {"W": W.T.clone()}
    if name != "ae_nmf":
        assert float(problem.U.max()) <= 0.01
        start["U"] = (problem.U if name == "cae_nmf1" else problem.U.mT).clone()
    epochs = [sampler.epoch(e) for e in range(4)]
    trajectory = dense.train_plainly(
        loss,
        start,
        {"W": 1e-3, "U": 5e-4},
        batches=[[batch.rows for batch in epoch] for epoch in epochs],
        row_norm=model.row_norm,
    )
    steps = [(batch, e) for e, epoch in enumerate(epochs) for batch in epoch]
    assert len({len(batch.rows) for batch, _ in steps}) == 2, "the last batch of an epoch is a partial one"
    for (batch, e), expected in zip(steps, trajectory, strict=True):
        problem.step(batch, e, 1.0)
        np.testing.assert_allclose(problem.W.T, expected["W"], rtol=1e-9, atol=1e-12)
        if name != "ae_nmf":
            U = problem.U if name == "cae_nmf1" else problem.U.mT
            np.testing.assert_allclose(U, expected["U"], rtol=1e-9, atol=1e-12)


def test_the_published_start_is_uniform_and_not_scaled():
    X, *_ = dense.planted(n=60, p=40)
    cpu = torch.device("cpu")
    W = start_loadings(InMemoryRows(X), 4, "uniform", 0, unit_rows=False, device=cpu)
    assert 0.4 < float(W.mean()) < 0.6
    assert float(W.max()) <= 1
    unit = start_loadings(InMemoryRows(X), 4, "uniform", 0, unit_rows=True, device=cpu)
    torch.testing.assert_close(unit, W / W.norm(dim=0))
