"""Packed sequences: every prediction once a pass, sequences apart, batches that depend on their number alone."""

import numpy as np
import pytest

from unisc.data.interests import Examples
from unisc.data.ragged import Ragged
from unisc.data.sequences import PackedSequences, rows_of, user_sequences
from unisc.errors import InputError

RNG = np.random.default_rng(0)
SEQUENCES = Ragged.of([RNG.integers(0, 40, n).tolist() for n in RNG.integers(1, 12, 50)])


def packed(**changes):
    given = {"num_items": 40, "max_len": 8, "batch_size": 4, "seed": 3, "num_epochs": 2, "num_negatives": 5}
    return PackedSequences(SEQUENCES, **(given | changes))


def predictions(source, indices):
    """List (items read so far, target) of every real place."""
    found = []
    for index in indices:
        batch = source[index]
        for b in range(batch.items.shape[0]):
            for t in np.flatnonzero(batch.weights[b]):
                own = np.flatnonzero(batch.segment[b] == batch.segment[b, t])
                found.append((tuple(batch.items[b, own[own <= t]].tolist()), int(batch.targets[b, t])))
    return sorted(found)


def test_a_pass_holds_every_prediction_once_and_only_the_last_of_a_long_sequence():
    source = packed()
    half = int(source._first[1])
    by_hand = []
    for i in range(SEQUENCES.num_rows):
        row = SEQUENCES.row(i)[-9:].tolist()
        by_hand += [(tuple(row[:t]), row[t]) for t in range(1, len(row))]
    assert predictions(source, range(half)) == predictions(source, range(half, len(source))) == sorted(by_hand)
    assert len(by_hand) == source.num_targets


def test_places_count_back_from_the_last_item_of_each_sequence():
    batch = packed()[0]
    for b in range(4):
        for number in range(int(batch.segment[b].max()) + 1):
            own = np.flatnonzero(batch.segment[b] == number)
            np.testing.assert_array_equal(batch.place[b, own], np.arange(8 - len(own), 8))
            np.testing.assert_array_equal(batch.items[b, own[1:]], batch.targets[b, own[:-1]])
    assert ((batch.segment >= 0) == (batch.weights > 0)).all()


def test_a_batch_depends_on_its_number_and_seed_and_little_is_padding():
    source, again = packed(), packed()
    for a, b in zip(source[5], again[5], strict=True):
        np.testing.assert_array_equal(a, b)
    assert (source[0].items != packed(seed=4)[0].items).any() and source.identity != packed(seed=4).identity
    assert (source[0].negatives != source[1].negatives).any() and source[0].negatives.shape == (4, 5)
    wide = packed(max_len=50, batch_size=2, num_epochs=1)
    assert np.mean([wide[i].weights.mean() for i in range(len(wide) - 1)]) > 0.8


def test_rows_are_filled_in_order_and_none_is_cut():
    row, offset = rows_of(np.array([3, 4, 2, 8, 1]), 8)
    assert row.tolist() == [0, 0, 1, 2, 3] and offset.tolist() == [0, 3, 0, 0, 0]


def test_a_users_sequence_is_its_last_history_and_target():
    histories = [[5], [1], [5, 6], [1, 2], [5, 6, 7]]
    empty = Ragged.of([[]] * 5)
    train = Examples(
        user=np.array([1, 0, 1, 0, 1], np.int32),
        query=empty,
        history=Ragged.of(histories),
        targets=Ragged.of([[6], [2], [7], [3], [8]]),
        shown=empty,
    )
    found = user_sequences(train)
    assert [found.row(i).tolist() for i in range(found.num_rows)] == [[1, 2, 3], [5, 6, 7, 8]]
    with pytest.raises(InputError, match="no example with a history"):
        user_sequences(train.take(np.array([], np.int64)))


@pytest.mark.parametrize(
    ("sequences", "message"), [(Ragged.of([[1], [2]]), "none of two items"), (Ragged.of([[1, 40]]), "item 40 of 40")]
)
def test_sequences_that_cannot_be_used_are_named(sequences, message):
    with pytest.raises(InputError, match=message):
        PackedSequences(sequences, num_items=40, max_len=8, batch_size=4, seed=0)
