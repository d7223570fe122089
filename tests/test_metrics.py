"""Each metric against a slow reference that says what it means, on random and on hand-made rows."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unisc import metrics
from unisc.errors import InputError


@st.composite
def ranked_rows(draw, fractional=False, max_groups=4):
    """Labels, scores (with many ties) and group offsets."""
    sizes = draw(st.lists(st.integers(0, 7), min_size=1, max_size=max_groups))
    n = sum(sizes)
    label = st.sampled_from([0.0, 0.25, 0.7, 1.0]) if fractional else st.sampled_from([0.0, 1.0])
    labels = np.array(draw(st.lists(label, min_size=n, max_size=n)))
    scores = np.array(draw(st.lists(st.integers(-3, 3), min_size=n, max_size=n)), float)
    return labels, scores, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def slow_pairs(labels, scores, weights):
    ordered = pairs = 0.0
    for i in range(len(labels)):
        for j in range(len(labels)):
            if i != j:
                mass = weights[i] * labels[i] * weights[j] * (1 - labels[j])
                pairs += mass
                ordered += mass * (1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0)
    return ordered, pairs


@given(rows=ranked_rows(), fractional=ranked_rows(fractional=True), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_auc_counts_ordered_pairs(rows, fractional, seed):
    for labels, scores, _ in (rows, fractional):
        weights = np.random.default_rng(seed).uniform(0.1, 2, len(labels))
        for w in (None, weights):
            ordered, pairs = slow_pairs(labels, scores, np.ones(len(labels)) if w is None else w)
            if pairs > 0:
                assert metrics.auc_roc(labels, scores, w) == pytest.approx(ordered / pairs, abs=1e-12)
            else:
                with pytest.raises(InputError):
                    metrics.auc_roc(labels, scores, w)


@given(rows=ranked_rows(fractional=True))
@settings(max_examples=60, deadline=None)
def test_gauc_is_the_row_weighted_mean_over_groups_with_both_classes(rows):
    labels, scores, offsets = rows
    total = weight = 0.0
    for lo, hi in itertools.pairwise(offsets):
        ordered, pairs = slow_pairs(labels[lo:hi], scores[lo:hi], np.ones(hi - lo))
        if pairs > 0:
            total, weight = total + (hi - lo) * ordered / pairs, weight + hi - lo
    if weight:
        assert metrics.gauc(labels, scores, offsets) == pytest.approx(total / weight, abs=1e-12)
    else:
        with pytest.raises(InputError, match="no group"):
            metrics.gauc(labels, scores, offsets)


@given(rows=ranked_rows(), k=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_list_metrics_read_the_sorted_list(rows, k):
    labels, scores, offsets = rows
    hr, mrr, ndcg = (
        f(labels, scores, offsets) for f in (lambda *a: metrics.hr_at(k, *a), metrics.mrr, lambda *a: metrics.ndcg_at(k, *a))
    )
    for g, (lo, hi) in enumerate(itertools.pairwise(offsets)):
        best_first = [label for _, label in sorted(zip(-scores[lo:hi], labels[lo:hi], strict=True))]
        if not any(best_first):
            assert np.isnan([hr[g], mrr[g], ndcg[g]]).all()
            continue
        assert hr[g] == float(any(best_first[:k]))
        assert mrr[g] == pytest.approx(1 / (best_first.index(1.0) + 1))
        gain = sum(y / np.log2(i + 2) for i, y in enumerate(best_first[:k]))
        ideal = sum(y / np.log2(i + 2) for i, y in enumerate(sorted(best_first, reverse=True)[:k]))
        assert ndcg[g] == pytest.approx(gain / ideal)


def test_expected_auc_is_what_labels_drawn_from_the_probabilities_give_on_average():
    rng = np.random.default_rng(0)
    p, scores = rng.uniform(0, 1, 12), rng.normal(size=12)
    ordered = pairs = 0.0
    for _ in range(20_000):
        y = (rng.random(12) < p).astype(float)
        positive, negative = scores[y == 1], scores[y == 0]
        ordered += (positive[:, None] > negative).sum()
        pairs += len(positive) * len(negative)
    assert metrics.auc_roc(p, scores) == pytest.approx(ordered / pairs, abs=0.01)


def test_no_score_expects_a_higher_auc_than_the_true_probabilities():
    rng = np.random.default_rng(1)
    p = rng.uniform(0, 1, 50)
    best = metrics.auc_roc(p, p)
    assert best > 0.5
    assert all(metrics.auc_roc(p, p + rng.normal(size=50) * 0.1) <= best for _ in range(20))


def test_small_groups_after_a_large_one_keep_their_exact_area():
    rng = np.random.default_rng(2)
    labels = np.concatenate([rng.integers(0, 2, 100_000), [1, 0, 0, 1]]).astype(float)
    scores = np.concatenate([rng.normal(size=100_000), [0.3, 0.1, 0.2, 0.15]])
    whole = metrics.gauc(labels, scores, np.array([0, 100_000, 100_004]))
    first = metrics.auc_roc(labels[:100_000], scores[:100_000])
    assert whole == pytest.approx((100_000 * first + 4 * 0.75) / 100_004, rel=1e-12)


def test_log_loss_agrees_with_probabilities_and_survives_extreme_logits():
    labels, logits = np.array([1.0, 0.0, 0.3]), np.array([2.0, -1.0, 0.5])
    p = 1 / (1 + np.exp(-logits))
    expected = -(labels * np.log(p) + (1 - labels) * np.log(1 - p)).mean()
    assert metrics.log_loss(labels, logits) == pytest.approx(expected, rel=1e-14)
    assert metrics.log_loss(np.array([0.0, 1.0]), np.array([800.0, 800.0])) == pytest.approx(400.0)


def test_ne_of_the_base_rate_is_one_and_calibration_compares_means():
    labels = np.array([1.0, 0, 0, 0])
    base = np.full(4, np.log(0.25 / 0.75))
    assert metrics.ne(labels, base) == pytest.approx(1.0)
    assert metrics.calibration(labels, base) == pytest.approx(1.0)
    assert metrics.calibration(labels, np.zeros(4)) == pytest.approx(2.0)


def test_entropy_is_the_least_cross_entropy():
    p = np.array([0.0, 0.2, 0.5, 1.0])
    assert metrics.entropy(p) == pytest.approx([0, 0.5004024235, np.log(2), 0])
    inner = p[1:3]
    assert metrics.cross_entropy(inner, np.log(inner / (1 - inner))) == pytest.approx(metrics.entropy(inner))


def test_gain_at_compares_with_the_best_choice():
    gains, scores = np.array([0.5, 0.1, 0.4, 0.0, 0.0]), np.array([1.0, 3, 2, 1, 2])
    got = metrics.gain_at(2, gains, scores, np.array([0, 3, 5]))
    assert got[0] == pytest.approx((0.1 + 0.4) / (0.5 + 0.4))
    assert np.isnan(got[1])


def test_a_constant_score_gains_nothing_from_the_order_of_its_rows():
    labels, scores, offsets = np.array([1.0, 0, 0]), np.zeros(3), np.array([0, 3])
    assert metrics.mrr(labels, scores, offsets)[0] == pytest.approx(1 / 3)
    assert metrics.auc_roc(labels, scores) == 0.5


def test_a_split_without_positives_is_named():
    with pytest.raises(InputError, match="test day without positives"):
        metrics.auc_roc(np.zeros(3), np.arange(3.0), split="test day")
    with pytest.raises(InputError, match="test day without negatives"):
        metrics.ne(np.ones(3), np.arange(3.0), split="test day")
    with pytest.raises(InputError, match="NaN"):
        metrics.auc_roc(np.array([0.0, 1.0]), np.array([np.nan, 1.0]))


def test_metrics_over_a_catalogue_against_a_ranking_of_every_item():
    rng = np.random.default_rng(3)
    num_items, k, num_groups = 30, 5, 40
    scores = rng.normal(size=(num_groups, num_items))
    targets = [rng.choice(num_items, rng.integers(1, 9), replace=False) for _ in range(num_groups)]
    proposed = [rng.choice(num_items, 12, replace=False) for _ in range(num_groups)]
    rank, group, expected = [], [], {"recall": [], "hr": [], "mrr": [], "ndcg": []}
    for g in range(num_groups):
        order = [item for item in np.argsort(-scores[g]) if item in proposed[g]]
        order += [item for item in range(num_items) if item not in order and item not in targets[g]]  # missed ones come never
        hits = np.array([item in targets[g] for item in order[:k]])
        places = [place for place, item in enumerate(order) if item in targets[g]]
        rank += [1 + place for place in places]
        group += [g] * len(places)
        gains = 1 / np.log2(np.arange(k) + 2)
        expected["recall"].append(hits.sum() / len(targets[g]))
        expected["hr"].append(float(hits.any()))
        expected["mrr"].append(1 / (1 + places[0]) if places and places[0] < k else 0)
        expected["ndcg"].append(gains[hits].sum() / gains[: min(k, len(targets[g]))].sum())
    found = metrics.found_at(k, np.array(rank), np.array(group), np.array([len(t) for t in targets]))
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-12)
    assert min(expected["recall"]) == 0 and max(expected["recall"]) > 0


def test_nothing_found_is_a_miss_and_targets_must_be_told():
    none = np.zeros(0, np.int64)
    assert {name: v.tolist() for name, v in metrics.found_at(3, none, none, np.array([2])).items()} == {
        "recall": [0], "hr": [0], "mrr": [0], "ndcg": [0],
    }  # fmt: skip
    for num_targets in ([0], [1]):
        with pytest.raises(InputError, match="targets: a group has none, or fewer than were found"):
            metrics.found_at(3, np.array([1, 2]), np.array([0, 0]), np.array(num_targets))
