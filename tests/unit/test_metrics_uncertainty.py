"""Intervals and tests against published formulas, scikit-learn on resampled cells, and planted truth."""

from __future__ import annotations

import numpy as np
import pytest

from nmfbench.metrics.contingency import (
    adjusted_rand_index,
    count_cells,
    mutual_information,
    prediction_scores,
)
from nmfbench.metrics.uncertainty import (
    corrected_resampled_t,
    donor_interval,
    holm,
    seed_interval,
    welch,
)


def test_the_corrected_resampled_t_is_that_of_the_papers():
    d = [round(0.01 * np.sin(i) + 0.004, 6) for i in range(1, 26)]
    found = corrected_resampled_t(d, 0.25)
    assert found.difference == pytest.approx(0.00397676, abs=1e-8)
    assert found.difference / found.t == pytest.approx(0.00389431, abs=1e-8)
    assert found.t == pytest.approx(1.021171, abs=1e-6)
    assert (found.df, found.n) == (24, 25)
    assert found.p == pytest.approx(0.317357, abs=1e-6)
    assert found.low == pytest.approx(-0.004061, abs=1e-6)
    assert found.high == pytest.approx(0.012014, abs=1e-6)
    naive = corrected_resampled_t(d, 0.0)
    assert naive.t == pytest.approx(2.7496, abs=1e-4)
    assert naive.p == pytest.approx(0.01116, abs=1e-5)


def test_too_little_is_no_interval_and_no_p():
    assert np.isnan(seed_interval([0.4]).low)
    assert seed_interval([0.4]).value == 0.4
    assert np.isnan(seed_interval([]).value)
    assert np.isnan(seed_interval([0.4] * 5).high)
    assert seed_interval([0.4] * 5).method.startswith("none")
    for found in (corrected_resampled_t([0.1], 0.25), corrected_resampled_t([0.1] * 25, 0.25)):
        assert np.isnan(found.p)
        assert found.difference == pytest.approx(0.1)
    assert np.isnan(welch([0.1], [0.2, 0.3]).p)


def test_training_seeds_have_t_intervals_and_welchs_test():
    from scipy import stats

    a, b = [0.50, 0.52, 0.47, 0.55, 0.51], [0.41, 0.44, 0.40]
    found = seed_interval(a)
    assert found.high - found.value == pytest.approx(2.7764451 * np.std(a, ddof=1) / np.sqrt(5))
    expected, ours = stats.ttest_ind(a, b, equal_var=False), welch(a, b)
    assert (ours.t, ours.df, ours.p) == pytest.approx((expected.statistic, expected.df, expected.pvalue))
    interval = expected.confidence_interval()
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high))


def test_holm_is_statsmodels():
    from statsmodels.stats.multitest import multipletests

    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    p = np.random.default_rng(0).uniform(size=30) ** 3
    np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1])
    np.testing.assert_allclose(holm([0.01, np.nan, 0.04]), [0.02, np.nan, 0.04])
    assert np.isnan(holm([np.nan])).all()


def cells(n_donors=12, n=600, seed=0):
    rng = np.random.default_rng(seed)
    donors, true = rng.integers(0, n_donors, n), rng.integers(0, 4, n)
    found = np.where(rng.uniform(size=n) < 0.6, true, rng.integers(0, 4, n))
    return donors, true, found


def test_scores_of_counts_are_those_of_resampled_cells():
    from sklearn.metrics import (
        accuracy_score,
        adjusted_rand_score,
        f1_score,
        normalized_mutual_info_score,
        precision_score,
        recall_score,
    )

    donors, true, found = cells()
    tables = count_cells(donors, true, found, 12, 4, 4)
    for seed in range(3):
        weights = np.random.default_rng(seed).multinomial(12, np.full(12, 1 / 12))
        rows = np.repeat(np.arange(donors.size), weights[donors])
        table = np.tensordot(weights, tables, axes=1)
        t, f = true[rows], found[rows]
        assert adjusted_rand_index(table) == pytest.approx(adjusted_rand_score(t, f), abs=1e-12)
        assert mutual_information(table) == pytest.approx(normalized_mutual_info_score(t, f), abs=1e-12)
        ours = prediction_scores(table)
        assert ours["F1"] == pytest.approx(f1_score(t, f, average="macro"), abs=1e-12)
        assert ours["Precision"] == pytest.approx(precision_score(t, f, average="macro"), abs=1e-12)
        assert ours["Recall"] == pytest.approx(recall_score(t, f, average="macro"), abs=1e-12)
        assert ours["Accuracy"] == pytest.approx(accuracy_score(t, f), abs=1e-12)


def test_a_class_that_a_draw_lacks_leaves_its_mean():
    table = np.array([[5, 1, 0], [0, 0, 0], [1, 0, 3]])
    assert prediction_scores(table)["Recall"] == pytest.approx((5 / 6 + 3 / 4) / 2)
    assert adjusted_rand_index(np.array([[7]])) == 1.0
    assert mutual_information(np.array([[7]])) == 1.0


def test_how_donors_are_resampled_follows_their_number():
    donors, true, found = cells(24)

    def interval(n_donors, fits=1):
        table = count_cells(donors % n_donors, true, found, n_donors, 4, 4)
        return donor_interval([[table]] * fits, adjusted_rand_index, replicates=300)

    assert interval(7).method.startswith("none")
    assert np.isnan(interval(7).low)
    assert (interval(8).method, interval(20).method) == ("jackknife over donors", "bootstrap over donors")
    for n in (8, 19, 20, 24):
        found_one = interval(n)
        assert found_one.n == n
        assert found_one.low < found_one.value < found_one.high
    assert interval(24) == interval(24)


def test_donors_without_a_cell_do_not_count_and_seeds_widen():
    donors, true, found = cells(20)
    table = count_cells(donors, true, found, 25, 4, 4)
    one = donor_interval([[table]], adjusted_rand_index, replicates=400)
    assert one.n == 20
    other = count_cells(donors, true, np.where(np.arange(600) % 3 == 0, 0, found), 25, 4, 4)
    two = donor_interval([[table], [other]], adjusted_rand_index, replicates=400)
    assert two.high - two.low > one.high - one.low
    repeats = donor_interval([[table, other]], adjusted_rand_index, replicates=400)
    assert repeats.value == pytest.approx(two.value)
