"""Intervals of the online test against exact references, looks that may be taken at any time, offline beside online."""

import numpy as np
import pytest
from scipy import stats

from analysis.online import agreement, clusters, compare, paired, same_users, sequence, split


def users(seed, num=400, lift=0.0):
    """Return requests and clicks in both worlds of users who differ in how often they come and click."""
    rng = np.random.default_rng(seed)
    n = rng.poisson(8, num) + 1.0
    rate = rng.gamma(4, 0.3, num)
    common = rng.poisson(n * rate * 0.8)
    return n, common + rng.poisson(n * rate * 0.2), common + rng.poisson(n * rate * (0.2 + lift))


def test_with_equal_clusters_the_interval_is_the_t_interval_of_the_means():
    _, c, t = users(0)
    found, _ = paired(np.full(len(c), 5.0), c, t)
    exact = stats.ttest_1samp((t - c) / 5, 0).confidence_interval(0.9)
    np.testing.assert_allclose([found.value, found.low, found.high], [(t - c).mean() / 5, exact.low, exact.high], rtol=1e-12)


def test_clustered_intervals_are_those_of_a_bootstrap_over_users():
    n, c, t = users(1, lift=0.05)
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(n), (4_000, len(n)))
    differences = (t - c)[draws].sum(axis=1) / n[draws].sum(axis=1)
    lifts = t[draws].sum(axis=1) / c[draws].sum(axis=1) - 1
    for found, resampled in zip(paired(n, c, t), (differences, lifts), strict=True):
        assert (found.high - found.low) / 2 == pytest.approx(1.645 * resampled.std(), rel=0.05)
    # As if requests were independent, the interval would be too short: a user's requests are alike.
    one_by_one = 2 * 1.645 * np.sqrt((c + t).sum()) / n.sum()
    found, _ = split(n, c, t, np.arange(len(n)) % 2 == 0)
    assert found.high - found.low > 1.5 * one_by_one


def test_a_split_of_equal_clusters_is_two_independent_means():
    _, c, t = users(2)
    half = np.arange(len(c)) % 2 == 0
    found, _ = split(np.ones(len(c)), c, t, half)
    standard = np.sqrt(t[half].var(ddof=1) / half.sum() + c[~half].var(ddof=1) / (~half).sum())
    assert found.value == pytest.approx(t[half].mean() - c[~half].mean())
    assert found.high - found.value == pytest.approx(stats.t.ppf(0.95, half.sum() - 1) * standard, rel=1e-9)


def test_users_seen_twice_on_equal_requests_are_a_pair():
    n, c, t = users(7)
    once, twice = paired(n, c, t)[0], same_users((n, n), (c, t))
    np.testing.assert_allclose([twice.value, twice.low, twice.high], [once.value, once.low, once.high])


def test_equal_worlds_differ_by_exactly_nothing_and_nothing_sold_has_no_end():
    n, c, _ = users(3)
    same, lift = paired(n, c, c)
    assert (same.value, same.low, same.high, lift.value, lift.low, lift.high) == (0,) * 6
    _, lost = paired(n, c, 0 * c)
    assert lost.value == -1 and lost.sign == 0 and np.isinf(lost.high)
    assert np.isnan(paired(0 * n, 0 * c, 0 * c)[0].value)


def test_looking_often_finds_what_is_not_there_unless_the_interval_allows_for_it():
    alone = corrected = 0
    trials = 400
    for seed in range(trials):
        looks = sequence(*users(1_000 + seed, num=300), looks=10)
        assert [look["users"] for look in looks] == list(range(30, 301, 30))
        for kind in ("alone", "always_valid"):
            left = any(look[kind][0] > 0 or look[kind][1] < 0 for look in looks)
            alone, corrected = alone + (kind == "alone") * left, corrected + (kind == "always_valid") * left
    assert alone / trials > 0.2
    assert stats.binomtest(corrected, trials).proportion_ci(0.99).low <= 0.1


def test_an_always_valid_interval_still_finds_what_is_there():
    looks = sequence(*users(5, num=2_000, lift=0.1), looks=10)
    assert looks[-1]["always_valid"][0] > 0
    widths = [look["always_valid"][1] - look["always_valid"][0] for look in looks]
    assert all(look["always_valid"][0] < look["alone"][0] for look in looks) and widths[-1] < widths[0]


def test_lives_of_a_user_are_one_cluster_and_order_is_by_hash():
    n, c, t = users(6, num=50)
    lives = np.repeat(np.arange(50), 3)
    sums = np.stack([c[lives], t[lives]])[..., None, None] / 3
    data = clusters(lives, n[lives][:, None] / 3, sums, seed=1)
    assert sorted(data.user_id) == list(range(50)) and list(data.user_id) != list(range(50))
    np.testing.assert_allclose(data.sums[1, :, 0, 0], t[data.user_id])
    found = compare(data, ["in charge"], ["clicks"])["segments"]["in charge"]["metrics"]["clicks"]
    assert found["paired"]["high"] == pytest.approx(paired(n, c, t)[0].high)


def test_offline_metrics_stand_beside_the_sign_online():
    online = {
        "segments": {
            "in charge": {
                "metrics": {
                    "clicks": {"paired": {"value": 0.1, "low": 0.05, "high": 0.15}},
                    "revenue": {"paired": {"value": 0.1, "low": -0.05, "high": 0.25}},
                }
            }
        }
    }
    names = ("eval/exposed/auc_roc", "eval/exposed/log_loss_calibrated", "eval/exposed/mrr")
    control, treatment = dict(zip(names, (0.7, 0.5, 0.3), strict=True)), dict(zip(names, (0.72, 0.52, 0.31), strict=True))
    rng = np.random.default_rng(0)
    request_id, base = np.arange(100), rng.random(100)
    arrays = [
        {"request_id": request_id, "exposed/num_candidates": np.full(100, 10),
         "exposed/log_loss_calibrated_sum": base + k, "exposed/mrr": base + 0.1 * k * rng.standard_normal(100)}
        for k in (0, 1)
    ]  # fmt: skip
    auc, loss, mrr = agreement(online, control, treatment, arrays)
    assert auc["interval"] is None and auc["online"] == {"clicks": "agrees", "revenue": "unresolved"}
    np.testing.assert_allclose(loss["interval"], [0.1, 0.1])
    assert loss["says"] == -1 and loss["online"]["clicks"] == "disagrees"
    assert mrr["interval"][0] < 0 < mrr["interval"][1] and mrr["online"]["clicks"] == "unresolved"
