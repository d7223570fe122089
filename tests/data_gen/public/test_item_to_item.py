"""Item-to-item retrieval against counts made anew from all other histories, one pair at a time."""

import itertools

import numpy as np
import pytest

from data_gen.public.item_to_item import WINDOW, ItemToItem, Lists

NUM_ITEMS = 12


def lists(rows) -> Lists:
    lengths = np.array([len(row) for row in rows], np.int64)
    items = np.array([item for row in rows for item in row], np.int64)
    return Lists(items=items, offsets=np.concatenate([[0], np.cumsum(lengths)]))


def histories(ordered, *, seed=0, num=30):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 9, num)
    rows = [(rng.integers(0, NUM_ITEMS, n) if ordered else rng.permutation(NUM_ITEMS)[:n]).tolist() for n in lengths]
    return [*rows, list(range(NUM_ITEMS)) * 2] if ordered else rows  # one longer than the window


def reference(rows, asked, *, ordered):
    """Scores of one history from the counts of `rows`: sums over its items, pair by pair."""
    count, pairs = np.zeros(NUM_ITEMS), np.zeros((NUM_ITEMS, NUM_ITEMS))
    for row in rows:
        for item in row:
            count[item] += 1
        for (i, a), (j, b) in itertools.permutations(enumerate(row), 2):
            if not ordered:
                pairs[a, b] += 1
            elif abs(i - j) <= WINDOW:
                pairs[a, b] += 1 / abs(i - j)
    scores = np.zeros(NUM_ITEMS)
    for place, a in enumerate(asked):
        weight = 1 / (len(asked) - place) if ordered else 1
        for c in range(NUM_ITEMS):
            if count[a] and count[c]:
                scores[c] += weight * pairs[a, c] / np.sqrt(count[a] * count[c])
    return scores, count


@pytest.mark.parametrize("ordered", [True, False])
def test_a_history_counts_for_nothing_in_its_own_request(ordered):
    rows = histories(ordered)
    rule = ItemToItem(lists(rows), num_items=NUM_ITEMS, ordered=ordered)
    own = np.flatnonzero([len(row) > 1 for row in rows])
    asked = [rows[g][:-1] for g in own]
    scores, counts = rule.scores(lists(asked), own)
    for r, g in enumerate(own):
        expected, count = reference(rows[:g] + rows[g + 1 :], asked[r], ordered=ordered)
        np.testing.assert_allclose(scores[r], expected, rtol=1e-9, atol=1e-12)
        np.testing.assert_array_equal(counts[r], count)


@pytest.mark.parametrize("ordered", [True, False])
def test_a_history_from_outside_meets_all_counts(ordered):
    rows, asked = histories(ordered), histories(ordered, seed=1, num=5)
    rule = ItemToItem(lists(rows), num_items=NUM_ITEMS, ordered=ordered)
    scores, _ = rule.scores(lists(asked), np.full(len(asked), -1))
    for r, row in enumerate(asked):
        np.testing.assert_allclose(scores[r], reference(rows, row, ordered=ordered)[0], rtol=1e-9, atol=1e-12)


def test_scores_mean_the_same_in_training_and_testing():
    """A request drawn from train is scored as if its session had never been in train, so not even its target gives it away."""
    rows = [[0, 1, 2], [3, 4], [0, 5], [4, 3]]
    rule = ItemToItem(lists(rows), num_items=NUM_ITEMS, ordered=True)
    without = ItemToItem(lists(rows[1:]), num_items=NUM_ITEMS, ordered=True)
    asked = lists([[0, 1]])
    drawn, _ = rule.scores(asked, np.array([0]))
    np.testing.assert_allclose(drawn, without.scores(asked, np.array([-1]))[0], atol=1e-12)
    assert drawn[0, 2] == 0 and rule.scores(asked, np.array([-1]))[0][0, 2] > 0


def test_neighbours_first_then_the_popular():
    rule = ItemToItem(lists([[0, 1], [0, 1], [0, 2], [3, 4], [3, 5], [3, 4]]), num_items=8, ordered=False)
    found = rule.propose(lists([[0], [6]]), np.array([-1, -1]), 5, repeats=False)
    # 1 and 2 are neighbours of 0 (cosine 2 / sqrt(6), 1 / sqrt(3)); the others come by their counts, then by their ids.
    assert found.items.tolist() == [[1, 2, 3, 4, 5], [0, 3, 1, 4, 2]]
    np.testing.assert_allclose(found.scores[0], [2 / 6**0.5, 1 / 3**0.5, 0, 0, 0])
    assert found.counts[0].tolist() == [2, 1, 3, 2, 1]


def test_items_of_the_history_are_proposed_only_where_they_may_repeat():
    rule = ItemToItem(lists([[0, 1, 0], [1, 0]]), num_items=3, ordered=True)
    asked, own = lists([[0, 1]]), np.array([-1])
    assert rule.propose(asked, own, 3, repeats=True).items.tolist() == [[0, 1, 2]]
    assert rule.propose(asked, own, 1, repeats=False).items.tolist() == [[2]]
    assert rule.propose(asked, own, 9, repeats=True).items.shape == (1, 3), "no more than there are"
