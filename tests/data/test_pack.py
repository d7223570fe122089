"""Packing loses nothing, repeats nothing, and never exceeds its fixed shape."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unisc.data.columns import load
from unisc.data.pack import BatchShape, Packer, Views, plan
from unisc.errors import InputError


@pytest.fixture(scope="module")
def columns(samples):
    return load(samples, "train", history_len=3)


def shape_for(columns, candidates):
    return BatchShape.of(columns.spec, candidates=candidates, mean_list_len=columns.num_examples / columns.num_requests)


def slow_plan(lengths, capacity, max_requests):
    starts, used, count = [0], 0, 0
    for i, n in enumerate(lengths):
        if count and (used + n > capacity or count == max_requests):
            starts.append(i)
            used = count = 0
        used, count = used + n, count + 1
    return [*starts, len(lengths)] if lengths else [0]


@given(lengths=st.lists(st.integers(1, 8), max_size=30), requests=st.integers(1, 5))
@settings(max_examples=80, deadline=None)
def test_what_does_not_fit_starts_the_next_batch(lengths, requests):
    shape = BatchShape(candidates=8, requests=requests, unique_rows=1)
    assert plan(np.array(lengths, np.int64), shape).tolist() == slow_plan(lengths, 8, requests)


@pytest.mark.parametrize("candidates", [4, 64, 4096])
def test_every_candidate_is_packed_once_with_its_own_features(columns, candidates):
    shape = shape_for(columns, candidates)
    packer, pieces = Packer(columns, shape), Views.all_of(columns).split(candidates)
    starts = plan(pieces.length, shape)
    seen = []
    for lo, hi in itertools.pairwise(starts.tolist()):
        views = pieces.take(np.arange(lo, hi))
        batch, rows = packer(views), packer.rows(views)
        n = len(rows)
        seen.append(rows)
        stored = np.asarray(batch.unique_rows)
        real = stored[stored < columns.spec.num_rows]
        assert len(np.unique(real)) == len(real)
        assert (stored[len(real) :] == columns.spec.num_rows).all()
        np.testing.assert_array_equal(stored[batch.candidate_ids[:n]], columns.candidate_fields[rows])
        np.testing.assert_array_equal(batch.candidate_numeric[:n], columns.candidate_numeric[rows])
        np.testing.assert_array_equal(batch.labels[:n], columns.labels[rows])
        requests = views.request[batch.request_index[:n]]
        np.testing.assert_array_equal(requests, np.searchsorted(columns.candidate_offsets, rows, side="right") - 1)
        np.testing.assert_array_equal(stored[batch.request_ids[batch.request_index[:n]]], columns.request_fields[requests])
        assert (batch.weights[:n] == 1).all() and not batch.weights[n:].any() and not batch.request_index[n:].any()
        for slot, request in enumerate(views.request):
            begin, end = columns.history_offsets[request : request + 2]
            kept = min(end - begin, 3)
            assert batch.history_mask[slot].sum() == kept
            expected = columns.history_fields[begin : begin + kept]
            np.testing.assert_array_equal(stored[batch.history_ids[slot, :kept]], expected)
        assert not batch.history_mask[len(views.request) :].any()
    np.testing.assert_array_equal(np.concatenate(seen), np.arange(columns.num_examples))


def test_all_batches_have_one_shape_and_in_bounds_indices(columns):
    shape = shape_for(columns, 50)
    packer, pieces = Packer(columns, shape), Views.all_of(columns).split(50)
    starts = plan(pieces.length, shape)
    batches = [packer(pieces.take(np.arange(lo, hi))) for lo, hi in itertools.pairwise(starts.tolist())]
    assert len({tuple((x.shape, x.dtype) for x in batch if x is not None) for batch in batches}) == 1
    for batch in batches:
        for ids in (batch.request_ids, batch.candidate_ids, batch.history_ids):
            assert ids.min() >= 0 and ids.max() < (batch.unique_rows < columns.spec.num_rows).sum()


@given(table_rows=st.integers(1, 400), seed=st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_the_bound_on_distinct_rows_holds_for_the_most_diverse_batch(columns, table_rows, seed):
    """Every slot draws its own id, in tables both smaller and larger than the slots that name them."""
    rng = np.random.default_rng(seed)
    tables = tuple(dataclasses.replace(t, num_rows=table_rows) for t in columns.spec.tables)
    spec = dataclasses.replace(columns.spec, tables=tables)
    offsets = spec.table_offsets()

    def draw(level, n):
        return np.stack([offsets[f.table] + rng.integers(0, table_rows, n) for f in spec.at(level)], axis=1).astype(np.int32)

    diverse = dataclasses.replace(
        columns,
        spec=spec,
        request_fields=draw("request", columns.num_requests),
        candidate_fields=draw("candidate", columns.num_examples),
        history_fields=draw("history", len(columns.history_fields)),
    )
    shape = shape_for(diverse, 64)
    pieces = Views.all_of(diverse).split(64)
    starts = plan(pieces.length, shape)
    batch = Packer(diverse, shape)(pieces.take(np.arange(starts[0], starts[1])))
    assert (batch.unique_rows < spec.num_rows).sum() <= shape.unique_rows <= spec.num_rows


def test_a_batch_of_no_candidates_is_refused(columns):
    with pytest.raises(InputError, match="batch_candidates 0"):
        shape_for(columns, 0)
