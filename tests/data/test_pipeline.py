"""The order of batches: shuffled by seed and epoch, resumable, and complete in evaluation."""

import numpy as np
import pytest

from unisc.data.columns import load
from unisc.data.pack import BatchShape
from unisc.data.pipeline import PackedRequests, PackedViews, full_lists, interleave, iterate, shown_lists


@pytest.fixture(scope="module")
def columns(samples):
    return load(samples, "train", history_len=3)


@pytest.fixture(scope="module")
def shape(columns):
    return BatchShape.of(columns.spec, candidates=64, mean_list_len=8)


def item_rows(batch):
    """The fused item rows of a batch's real candidates, which name what it holds."""
    real = batch.weights[:, 0] > 0
    return batch.unique_rows[batch.candidate_ids[real, 0]].tolist()


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_an_epoch_holds_every_candidate_once_and_epochs_differ(columns, shape):
    source = PackedRequests(columns, shape, seed=1, num_epochs=2)
    rows = [row for batch in iterate(source) for row in item_rows(batch)]
    expected = sorted(columns.candidate_fields[:, 0].tolist())
    first, second = rows[: columns.num_examples], rows[columns.num_examples :]
    assert sorted(first) == sorted(second) == expected
    assert first != second


def test_the_seed_alone_decides_the_order(columns, shape):
    once, again, other = (PackedRequests(columns, shape, seed=s, position_dropout=0.3) for s in (1, 1, 2))
    assert all(same(once[i], again[i]) for i in range(len(once)))
    assert item_rows(once[0]) != item_rows(other[0])


def test_an_iterator_set_to_a_saved_state_goes_on_where_it_was(columns, shape):
    source = PackedRequests(columns, shape, seed=1, num_epochs=2, position_dropout=0.3)
    batches = iterate(source)
    for _ in range(len(source) // 2 + 1):
        next(batches)
    state = batches.get_state()
    rest = list(batches)
    resumed = iterate(PackedRequests(columns, shape, seed=1, num_epochs=2, position_dropout=0.3))
    resumed.set_state(state)
    others = list(resumed)
    assert len(rest) == len(others) > 0
    assert all(same(a, b) for a, b in zip(rest, others, strict=True))


def test_reader_threads_give_the_same_batches(columns, shape):
    source = PackedRequests(columns, shape, seed=1)
    assert all(same(a, b) for a, b in zip(iterate(source), iterate(source, num_threads=2), strict=True))


def test_position_dropout_hides_whole_requests_and_nothing_else(columns, shape):
    plain, dropped = (PackedRequests(columns, shape, seed=1, position_dropout=p) for p in (0.0, 0.4))
    position = [f.name for f in columns.spec.at("candidate")].index("position")
    steps = [f.name for f in columns.spec.at("candidate")].index("steps_below")
    reciprocal = [f.name for f in columns.spec.numeric].index("reciprocal_position")
    not_shown = columns.spec.table_offsets()["position"]
    hidden = total = 0
    for i in range(len(plain)):
        a, b = plain[i], dropped[i]
        fields_a, fields_b = a.unique_rows[a.candidate_ids], b.unique_rows[b.candidate_ids]
        real = a.weights[:, 0] > 0
        shown = real & (fields_a[:, position] != not_shown)
        gone = shown & (fields_b[:, position] == not_shown)
        assert (b.candidate_numeric[gone, reciprocal] == 0).all()
        for request in np.unique(a.request_index[real]):
            of_request = shown & (a.request_index == request)
            assert gone[of_request].all() or not gone[of_request].any()
        assert (fields_b[gone, steps] == columns.spec.table_offsets()["steps_below"]).all()
        kept = ~np.isin(np.arange(fields_a.shape[1]), [position, steps])
        np.testing.assert_array_equal(fields_a[real][:, kept], fields_b[real][:, kept])
        hidden, total = hidden + gone.sum(), total + shown.sum()
    assert 0.25 < hidden / total < 0.55


def test_evaluation_shows_each_list_once_and_each_full_list_without_positions(columns, shape):
    views = interleave(shown_lists(columns), full_lists(columns, 30))
    source = PackedViews(columns, views, shape)
    position = [f.name for f in columns.spec.at("candidate")].index("position")
    shown, full = [], []
    for i, batch in enumerate(iterate(source)):
        rows, hidden = source.rows(i), source.hidden(i)
        fields = batch.unique_rows[batch.candidate_ids[: len(rows)]]
        np.testing.assert_array_equal(fields[~hidden], columns.candidate_fields[rows[~hidden]])
        assert (fields[hidden, position] == columns.spec.table_offsets()["position"]).all()
        shown += rows[~hidden].tolist()
        full += rows[hidden].tolist()
    assert sorted(shown) == np.flatnonzero(columns.exposed).tolist()
    assert sorted(full) == list(range(columns.candidate_offsets[30]))
