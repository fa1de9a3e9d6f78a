"""Fits by minibatches on a card, or on the processor in its place, for the tests of both."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

import reference_models as dense
from nmfbench.models import get_model
from nmfbench.models.autoencoder import on_card
from nmfbench.rows import card as card_module
from nmfbench.rows.card_memory import CardPlacement

FITS = {
    "ae_nmf": {},
    "ae_nmf, unit rows": {"row_norm": True, "init": "uniform"},
    "cae_nmf1": {"warmup_epochs": 2, "penalty_invariance": 0.1, "penalty_hsic": 0.05},
    "cae_nmf1, adam": {"update_U": "adam", "penalty_invariance": 0.1, "warmup_epochs": 2, "row_norm": True},
    "cae_nmf1, crossed": {"warmup_epochs": 2, "penalty_invariance": 0.1, "penalty_hsic": 0.05},
    "cae_nmf2": {},
    "cae_nmf2, mixed": {"batches": "random"},
    "cae_nmf2, published": {"init": "uniform", "batches": "round_robin", "row_norm": True},
}
"""Settings of each fit; what stands before the comma is the model. `crossed`: two columns of conditions."""

_NOT_COMPARED = {"seconds", "cells_per_s", "peak_mb"}


def fitted(name, device, dtype=np.float64, n_epochs=5, **around):
    """A fit to 240 cells in batches of 32 at most, of unequal sizes; one donor has one cell."""
    X, _, donor, kind = dense.planted()
    donor[13] = "lone"
    settings = {"max_iter": n_epochs, "batch_size": 32, "solver": "minibatch", "random_state": 0}
    model = get_model(name.split(",")[0])(4, device=device, **settings, **FITS[name])
    labels = {"strata": kind} | ({} if name.startswith("ae") else {"conditions": donor})
    if "crossed" in name:
        tissue = np.array(["x", "y", "z"])[np.random.default_rng(1).integers(3, size=len(donor))]
        labels["conditions"] = np.stack([donor, tissue], axis=1)
    return model.fit(sp.csr_matrix(X, dtype=dtype), **labels, progress=False, **around)


def numbers(history):
    """What of a history is the same in every run of a fit."""
    return [{key: value for key, value in row.items() if key not in _NOT_COMPARED} for row in history]


def after(steps):
    """Says that it is time to stop when it has been asked so often."""
    asked = iter(range(steps))
    return lambda: next(asked, None) is None


def put(where, monkeypatch):
    """Have the cells lie where it is said, whatever the memory, and windows of few batches."""
    placement = CardPlacement(where, 2000, 0.0, 0.0, 0.0)
    monkeypatch.setattr(on_card, "place_on_card", lambda *sizes, **more: placement)
    monkeypatch.setattr(card_module, "LONGEST_WINDOW", 3)
