"""Batches for two towers: what their places name, whose histories they hold, and that number and seed decide them."""

import numpy as np
import pytest

from unisc.data.interests import load
from unisc.data.tower_batches import Hard, TowerBatches, histories, kept, wanted_counts
from unisc.errors import InputError

SETTINGS = {"batch_size": 16, "seed": 3, "num_epochs": 2, "history_len": 4, "query_len": 3}


@pytest.fixture(scope="module")
def interests(load_file, tmp_path_factory):
    from pathlib import Path

    tiny = load_file(Path(__file__).parent / "tiny_interests.py")
    made = tmp_path_factory.mktemp("interests")
    return {
        ordered: load(tiny.write(made / str(ordered), num_items=600, num_users=10, num_train=40, is_ordered=ordered))
        for ordered in (True, False)
    }


def named(batch, places):
    return batch.unique_rows[: len(batch.unique_rows) - len(batch.user)][places]


@pytest.mark.parametrize("is_ordered", [True, False])
@pytest.mark.parametrize("whole", [True, False])
def test_places_name_what_the_examples_hold(interests, is_ordered, whole):
    data = interests[is_ordered]
    batches = TowerBatches(data, **SETTINGS, num_shown=2, num_drawn=3, whole=whole)
    rows = batches._content(1).rows
    batch, train = batches[1], data.train
    np.testing.assert_array_equal(named(batch, batch.wanted), [train.targets.row(r)[0] for r in rows])
    users = batch.unique_rows[-16:][batch.user] - data.catalogue.num_items
    np.testing.assert_array_equal(users, train.user[rows])
    for i, row in enumerate(rows):
        held = train.history.row(row)[-4:] if is_ordered else np.setdiff1d(data.known.row(users[i]), train.targets.row(row))
        found = named(batch, batch.history[i])[batch.history_mask[i]]
        assert len(found) == min(len(held), 4) and set(found) <= set(held)
        np.testing.assert_array_equal(named(batch, batch.hard[i])[batch.hard_mask[i]], train.shown.row(row)[:2])
        np.testing.assert_array_equal(batch.query[i][batch.query_mask[i]], train.query.row(row)[:3])
    items = batch.unique_rows[: batches.num_slots]
    real = items[items < data.catalogue.num_items]
    assert len(real) == len(set(real)) and batch.drawn.shape == (16, 3)
    assert not whole or np.array_equal(items, np.arange(600))


def test_every_epoch_has_every_example_once_and_the_number_decides(interests):
    batches = TowerBatches(interests[True], **{**SETTINGS, "batch_size": 8})
    assert len(batches) == 2 * 40 // 8
    seen = [batches._content(i).rows for i in range(10)]
    for epoch in (seen[:5], seen[5:]):
        assert sorted(np.concatenate(epoch)) == list(range(40))
    assert not np.array_equal(seen[0], seen[5])
    again = TowerBatches(interests[True], **{**SETTINGS, "batch_size": 8})
    for a, b in zip(again[7], batches[7], strict=True):
        np.testing.assert_array_equal(a, b)
    assert again.identity == batches.identity != TowerBatches(interests[True], **{**SETTINGS, "seed": 4}).identity


def test_known_columns_are_those_of_the_history(interests):
    data = interests[False]
    batches = TowerBatches(data, **{**SETTINGS, "history_len": 50}, mask_known=True)
    batch, rows = batches[0], batches._content(0).rows
    wanted = named(batch, batch.wanted)
    for i, row in enumerate(rows):
        others = set(data.known.row(data.train.user[row])) - {wanted[i]}
        np.testing.assert_array_equal(batch.known[i], [w in others for w in wanted])
    assert batch.known.any() and not TowerBatches(data, **SETTINGS)[0].known.any()


def test_with_too_little_room_histories_go_first(interests):
    batches = TowerBatches(interests[True], **SETTINGS, num_shown=2)
    whole = batches[0]
    batches.num_slots = 16
    batch = batches[0]
    np.testing.assert_array_equal(named(batch, batch.wanted), named(whole, whole.wanted))
    assert batch.history_mask.sum() < whole.history_mask.sum()
    i, s = np.nonzero(batch.history_mask)
    full = {(r, v) for r in range(16) for v in named(whole, whole.history[r])[whole.history_mask[r]]}
    assert {(r, v) for r, v in zip(i, named(batch, batch.history[i, s]), strict=True)} <= full


def test_mined_negatives_stand_beside_the_shown(interests):
    data = interests[True]
    mined = Hard(np.arange(80).reshape(40, 2), np.tile([True, False], (40, 1)))
    batches = TowerBatches(data, **SETTINGS, num_shown=1, hard=mined)
    batch, rows = batches[0], batches._content(0).rows
    np.testing.assert_array_equal(named(batch, batch.hard[:, 1]), 2 * rows)
    assert not batch.hard_mask[:, 2].any()


def test_draws_follow_the_counts(interests):
    data = interests[True]
    batches = TowerBatches(data, **{**SETTINGS, "num_epochs": 20}, num_drawn=40, draw_power=4.0, whole=True)
    drawn = np.concatenate([batches[i].drawn.ravel() for i in range(len(batches))])
    counts = wanted_counts(data, np.arange(40))
    weights = np.maximum(counts, 1.0) ** 4
    often = counts >= 2
    assert often.any() and weights[often].sum() > 2 * often.sum()
    assert np.mean(often[drawn]) == pytest.approx(weights[often].sum() / weights.sum(), abs=0.01)


def test_shares_of_users_are_nested(interests):
    data = interests[True]
    half, most = (kept(data, f) for f in (0.5, 0.8))
    assert set(half) < set(most) and len(set(data.train.user[half])) == 5
    with pytest.raises(InputError, match=r"fraction 0: give a number above 0"):
        kept(data, 0)
    with pytest.raises(InputError, match="batch_size 64: there are 40 train examples"):
        TowerBatches(data, **{**SETTINGS, "batch_size": 64})


def test_at_evaluation_nothing_is_left_out_of_a_history(interests):
    data = interests[False]
    items, mask = histories(data, data.test, np.arange(5), 50)
    for i in range(5):
        np.testing.assert_array_equal(items[i][mask[i]], data.known.row(data.test.user[i]))
