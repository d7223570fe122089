"""Collapse measures on maps whose answer is known: uniform, one key, barcodes and attention that reads contents."""

import numpy as np
import pytest

from unisc.collapse import (
    check,
    importance,
    measure,
    normalised_entropy,
    pairwise_cosine,
    shuffle_contents,
    sink_rate,
    slot_rows,
)
from unisc.errors import InputError

LENGTH, SLOTS = 8, np.array([2, 3, 4, 5, 6])


def uniform(users=1, length=LENGTH, layers=1, heads=1):
    maps = np.tril(np.ones((length, length))) / np.arange(1, length + 1)[:, None]
    return np.broadcast_to(maps, (layers, users, heads, length, length)).copy()


def of_scores(scores):
    """Make causal maps of per-user scores (B, T) of keys, the same for every query."""
    length = scores.shape[1]
    weights = np.where(np.tril(np.ones((length, length), bool)), np.exp(scores)[:, None], 0.0)
    return (weights / weights.sum(axis=-1, keepdims=True))[None, :, None]


def all_real(users, length=LENGTH):
    return np.ones((users, length), bool)


def slots_of(users):
    return np.broadcast_to(SLOTS, (users, 5)).copy()


def test_uniform_attention_has_the_importance_of_its_formula():
    found = importance(uniform(), all_real(1))[0, 0, 0]
    by_hand = [sum(1 / (i + 1) for i in range(k, LENGTH)) / (LENGTH - k) for k in range(LENGTH)]
    np.testing.assert_allclose(found, by_hand)


def test_one_key_that_all_read_is_a_sink_of_rate_100():
    maps = np.zeros((2, 3, 2, LENGTH, LENGTH))
    maps[..., :3, 0], maps[..., 3:, 3] = 1, 1
    rate = sink_rate(maps, all_real(3))
    # Before the key exists the first is read: a sink to three of its eight queries.
    np.testing.assert_allclose(rate, [100, 0, 0, 100, 0, 0, 0, 0])
    assert sink_rate(maps, all_real(3), threshold=0.4)[0] == 0


def test_padding_on_the_right_changes_no_importance():
    wide = np.zeros((1, 1, 1, LENGTH + 3, LENGTH + 3))
    wide[..., :LENGTH, :LENGTH] = uniform()
    wide[..., LENGTH:, 0] = 1  # what padding reads
    valid = np.arange(LENGTH + 3)[None] < LENGTH
    found = importance(wide, valid)
    np.testing.assert_allclose(found[..., :LENGTH], importance(uniform(), all_real(1)))
    assert np.isnan(found[..., LENGTH:]).all()
    assert np.isnan(sink_rate(wide, valid)[LENGTH:]).all()


def test_the_first_token_is_left_out_of_the_sinks_of_a_history():
    maps = np.zeros((1, 2, 1, LENGTH, LENGTH))
    maps[..., 0] = 1
    slots = np.array([[0, 1], [0, 1]])
    assert measure(maps, all_real(2), slots).sink_rate.value == 0
    assert measure(maps, all_real(2), slots, skip_first=False).sink_rate.value == 50


def test_entropy_is_one_where_items_are_read_alike_and_none_where_one_is():
    assert normalised_entropy(uniform(), all_real(1), slots_of(1))[0] == pytest.approx(1)
    peaked = of_scores(np.where(np.arange(LENGTH) == 4, 60.0, 0.0)[None])
    assert normalised_entropy(peaked, all_real(1), slots_of(1))[0] == pytest.approx(0, abs=1e-9)
    # Half and half over two of five.
    two = of_scores(np.where(np.isin(np.arange(LENGTH), (3, 5)), 60.0, 0.0)[None])
    assert normalised_entropy(two, all_real(1), slots_of(1))[0] == pytest.approx(np.log(2) / np.log(5))
    lonely = np.array([[2, -1, -1, -1, -1]])
    assert np.isnan(normalised_entropy(uniform(), all_real(1), lonely)).all()


def test_rows_are_means_over_later_items_and_the_last_token():
    maps = np.arange(LENGTH * LENGTH, dtype=float).reshape(1, 1, 1, LENGTH, LENGTH)
    rows = slot_rows(maps, all_real(1), slots_of(1))[0, 0, 0]
    assert rows[0] == np.mean([maps[0, 0, 0, i, 2] for i in (3, 4, 5, 6, 7)])
    assert rows[4] == maps[0, 0, 0, 7, 6]


def test_cosine_is_over_the_slots_that_both_users_have():
    rows = np.array([[1.0, 2, 3], [2, 4, 0], [2, -1, 5]])[None, :, None]
    present = np.array([[True, True, True], [True, True, False], [True, True, True]])
    found = pairwise_cosine(rows, present)
    assert found[0, 1] == pytest.approx(1) and found[1, 2] == pytest.approx(0)
    assert found[0, 2] == pytest.approx((2 - 2 + 15) / np.sqrt(14 * 30))
    centred = pairwise_cosine(rows, np.ones((3, 3), bool), centred=True)
    assert centred[0, 2] == pytest.approx(np.corrcoef(rows[0, 0, 0], rows[0, 2, 0])[0, 1])


def test_a_barcode_is_told_from_attention_that_reads_contents():
    users, rng = 40, np.random.default_rng(0)
    valid, slots = all_real(users), slots_of(users)
    by_slot = 2 * np.broadcast_to(rng.normal(size=LENGTH), (users, LENGTH))
    contents = 2 * rng.normal(size=(users, LENGTH))
    dealt = contents.copy()
    dealt[:, SLOTS] = rng.permutation(contents[:, SLOTS].ravel()).reshape(users, -1)
    barcode = measure(of_scores(by_slot), valid, slots, shuffled=of_scores(by_slot), centred=True)
    reader = measure(of_scores(contents), valid, slots, shuffled=of_scores(dealt), centred=True)
    assert barcode.cosine.value == pytest.approx(1) and reader.cosine.high < 0.3
    assert barcode.sensitivity.value == pytest.approx(0, abs=1e-9) and reader.sensitivity.low > 0.5
    assert barcode.cosine_change.value == pytest.approx(0, abs=1e-9)
    assert reader.cosine.low < reader.cosine.value < reader.cosine.high
    # A reader of contents that all users share looks like a barcode, until they are dealt anew.
    common = by_slot + 0.2 * contents
    dealt = common.copy()
    dealt[:, SLOTS] = rng.permutation(common[:, SLOTS].ravel()).reshape(users, -1)
    found = measure(of_scores(common), valid, slots, shuffled=of_scores(dealt), centred=True)
    assert found.cosine.value > 0.8 and found.cosine_change.high < -0.3


def test_contents_are_dealt_anew_and_none_is_lost():
    items, present = np.arange(12).reshape(3, 4), np.arange(4) < np.array([[4], [2], [3]])
    dealt = shuffle_contents(items, present, seed=0)
    assert sorted(dealt[present]) == sorted(items[present]) and (dealt[present] != items[present]).any()
    np.testing.assert_array_equal(dealt[~present], items[~present])


@pytest.mark.parametrize(
    ("maps", "valid", "slots", "message"),
    [
        (np.zeros((1, 2, 1, 3, 4)), np.ones((2, 4), bool), np.zeros((2, 1), int), "maps: shape"),
        (np.zeros((1, 2, 1, 4, 4)), np.ones((3, 4), bool), np.zeros((2, 1), int), "same users and tokens"),
        (np.zeros((1, 2, 1, 4, 4)), np.arange(4) < np.array([[2], [4]]), np.full((2, 1), 3), "no real token"),
        (np.zeros((1, 2, 1, 4, 4)), np.ones((2, 4), bool), np.full((2, 1), 4), "no real token"),
    ],
)
def test_maps_of_something_else_are_refused(maps, valid, slots, message):
    with pytest.raises(InputError, match=message):
        check(maps, valid, slots)
