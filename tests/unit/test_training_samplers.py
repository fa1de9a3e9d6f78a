"""Batches: every cell once per epoch, decided by seed and epoch, with the promised make-up."""

from __future__ import annotations

import numpy as np
import pytest

from nmfbench.rows.batches import ORDERS, Sampler

N = 503
STRATA = np.random.default_rng(0).choice(6, size=N, p=[0.5, 0.2, 0.15, 0.1, 0.04, 0.01])
DONORS = np.random.default_rng(1).choice(4, size=N, p=[0.6, 0.25, 0.14, 0.01])


def sampler(order, seed=3, batch_size=50, n=N):
    return Sampler(order, n, batch_size, seed, strata=STRATA[:n], conditions=DONORS[:n])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("batch_size", [1, 50, 502, 503, 9999])
def test_each_cell_exactly_once(order, batch_size):
    for epoch in (0, 7):
        rows = [batch.rows for batch in sampler(order, batch_size=batch_size).epoch(epoch)]
        assert np.array_equal(np.sort(np.concatenate(rows)), np.arange(N))
        assert max(map(len, rows)) <= batch_size
        assert min(map(len, rows)) > 0


@pytest.mark.parametrize("order", ORDERS)
def test_seed_and_epoch_decide_everything(order):
    def rows(seed, epoch):
        return np.concatenate([batch.rows for batch in sampler(order, seed).epoch(epoch)])

    fresh = sampler(order)
    fresh.epoch(0), fresh.epoch(1)
    assert np.array_equal(rows(3, 5), np.concatenate([batch.rows for batch in fresh.epoch(5)]))
    assert not np.array_equal(rows(3, 5), rows(3, 6))
    assert not np.array_equal(rows(3, 5), rows(4, 5))


@pytest.mark.parametrize("order", ["random", "proportional"])
def test_batches_differ_by_one_cell_at_most(order):
    sizes = [len(batch.rows) for batch in sampler(order).epoch(0)]
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) == 11


def test_proportional_batches_have_the_proportions_of_the_whole():
    for batch in sampler("proportional").epoch(2):
        counts = np.bincount(STRATA[batch.rows], minlength=6)
        expected = np.bincount(STRATA, minlength=6) * len(batch.rows) / N
        assert np.abs(counts - expected).max() <= 2


def test_round_robin_batches_begin_with_the_next_type_and_are_nearly_one_type():
    batches = sampler("round_robin", batch_size=30).epoch(0)
    assert [len(b.rows) for b in batches] == [30] * (N // 30) + [N % 30]
    starts = [STRATA[b.rows[0]] for b in batches[:4]]
    assert starts == [0, 1, 2, 3]
    assert len(np.unique(STRATA[batches[0].rows])) == 1


def test_batches_by_condition_hold_one_condition_and_weigh_as_their_cells():
    batches = sampler("by_condition").epoch(1)
    for batch in batches:
        assert set(DONORS[batch.rows]) == {batch.condition}
        assert batch.condition_share == sum(b.condition == batch.condition for b in batches) / len(batches)
        assert batch.weight == pytest.approx(len(batch.rows) * len(batches) / N)
    assert np.mean([batch.weight for batch in batches]) == pytest.approx(1)
    order = [batch.condition for batch in batches]
    assert order != sorted(order), "the conditions come in shuffled order"


def test_an_order_without_its_groups_is_refused():
    with pytest.raises(ValueError, match="proportional"):
        Sampler("proportional", 10, 5, 0)
