"""Exact retrieval against plain numpy: the order, ties, masks, ranks and metrics, whatever the blocks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unisc import metrics
from unisc.data.interests import Examples
from unisc.data.ragged import Ragged
from unisc.errors import InputError
from unisc.retrieval import exact
from unisc.retrieval.exact import exact_top, recall_metrics, target_ranks


def examples(users, targets):
    empty = Ragged.of([[] for _ in users])
    return Examples(user=np.array(users, np.int32), query=empty, history=empty, targets=Ragged.of(targets), shown=empty)


@st.composite
def problems(draw):
    """Small whole numbers as vectors, so that scores are exact and ties are many."""
    num_queries, num_items, seed = draw(st.integers(1, 9)), draw(st.integers(2, 12)), draw(st.integers(0, 10_000))
    rng = np.random.default_rng(seed)
    vectors = [rng.integers(-2, 3, size=(n, 3)).astype(np.float32) for n in (num_queries, num_items)]
    known = [rng.choice(num_items, rng.integers(0, num_items), replace=False).tolist() for _ in range(num_queries)]
    targets = [rng.choice(num_items, rng.integers(1, num_items), replace=False).tolist() for _ in range(num_queries)]
    return *vectors, known, targets, draw(st.sampled_from([0, 4]))


@pytest.mark.parametrize("best", ["_top_on_host", "_top_on_device"])
@given(problems())
@settings(max_examples=15, deadline=None)
def test_the_top_is_numpys_with_ties_by_row(best, problem):
    queries, items, known, _, block = problem
    k = min(3, len(items))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(exact, "_top_on_host", getattr(exact, best))
        scores, rows = exact_top(queries, items, k, known=Ragged.of(known), block=block)
    for i, query in enumerate(queries):
        by_hand = items @ query
        left = [r for r in np.lexsort((np.arange(len(items)), -by_hand)) if r not in known[i]][:k]
        assert rows[i].tolist() == left + [-1] * (k - len(left))
        np.testing.assert_array_equal(scores[i][: len(left)], by_hand[left])
        assert np.isneginf(scores[i][len(left) :]).all()


@given(problems())
@settings(max_examples=20, deadline=None)
def test_ranks_are_those_of_the_metrics(problem):
    queries, items, known, targets, block = problem
    rank, group = target_ranks(queries, items, Ragged.of(targets), known=Ragged.of(known), block=block)
    assert len(rank) == sum(map(len, targets))
    for i, query in enumerate(queries):
        ranked = [r for r in range(len(items)) if r in targets[i] or r not in known[i]]
        labels = np.array([float(r in targets[i]) for r in ranked])
        by_hand = metrics.ranks(labels, (items[ranked] @ query).astype(np.float64), np.array([0, len(ranked)]))
        assert sorted(rank[group == i]) == sorted(by_hand[labels > 0])


def test_metrics_of_examples_mask_what_their_users_know_but_never_a_target():
    items = np.eye(4, dtype=np.float32)
    queries = np.array([[4, 3, 2, 1], [4, 3, 2, 1]], np.float32)
    known = Ragged.of([[0, 1], [2]])  # by user
    held = examples([1, 0], [[2], [1, 3]])
    found = recall_metrics(queries, items, held, ks=(1, 2), known=known)
    # User 1 knows item 2, its target: it stays third. User 0 does not rank item 0: 1 and 3 are first and third.
    np.testing.assert_allclose(found["recall@1"], [0, 0.5])
    np.testing.assert_allclose(found["hr@2"], [0, 1])
    np.testing.assert_allclose(found["mrr@2"], [0, 1])
    np.testing.assert_allclose(found["ndcg@2"], [0, 1 / (1 + 1 / np.log2(3))])
    unmasked = recall_metrics(queries, items, held, ks=(1, 3))
    np.testing.assert_allclose(unmasked["recall@3"], [1, 0.5])
    np.testing.assert_allclose(unmasked["mrr@3"], [1 / 3, 0.5])


def test_blocks_change_nothing_and_a_constant_score_finds_nothing():
    rng = np.random.default_rng(0)
    queries, items = rng.normal(size=(37, 8)).astype(np.float32), rng.normal(size=(50, 8)).astype(np.float32)
    targets = Ragged.of([[int(x)] for x in rng.integers(0, 50, 37)])
    whole = target_ranks(queries, items, targets, block=37)
    np.testing.assert_array_equal(target_ranks(queries, items, targets, block=8), whole)
    np.testing.assert_array_equal(exact_top(queries, items, 5, block=8)[1], exact_top(queries, items, 5)[1])
    rank, _ = target_ranks(queries, np.ones_like(items), targets)
    assert (rank == 50).all()


def test_a_target_named_twice_counts_once():
    items, query = np.eye(3, dtype=np.float32), np.array([[1, 2, 3]], np.float32)
    rank, group = target_ranks(query, items, Ragged.of([[1, 1, 2]]))
    assert sorted(rank) == [1, 2] and group.tolist() == [0, 0]


ITEMS = np.eye(3, dtype=np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: exact_top(ITEMS[:, :2], ITEMS, 1), "items: width 3 against 2"),
        (lambda: exact_top(ITEMS, ITEMS, 4), "k 4: of 3 items"),
        (lambda: exact_top(ITEMS, ITEMS * np.array([[1], [np.nan], [1]]), 1), "items: vector 1 has a value"),
        (lambda: exact_top(ITEMS, ITEMS, 1, known=Ragged.of([[0]])), "known: 1 rows for 3 queries"),
        (lambda: exact_top(ITEMS[:1], ITEMS, 1, known=Ragged.of([[3]])), "known: item row 3 of 3 items"),
        (lambda: target_ranks(ITEMS, ITEMS, Ragged.of([[0], [], [1]])), "targets: query 1 has none"),
        (lambda: recall_metrics(ITEMS, ITEMS, examples([0], [[0]]), ks=(1,)), "queries: 3 for 1 examples"),
        (lambda: recall_metrics(ITEMS[:1], ITEMS, examples([0], [[0]]), ks=(0,)), "ks (0,)"),
        (
            lambda: recall_metrics(ITEMS[:1], ITEMS, examples([5], [[0]]), ks=(1,), known=Ragged.of([[0]])),
            "known: rows of 1 users, but examples of user 5",
        ),
    ],
)
def test_a_mistake_is_named(call, message):
    with pytest.raises(InputError) as e:
        call()
    assert message in str(e.value) and "\n" not in str(e.value)
