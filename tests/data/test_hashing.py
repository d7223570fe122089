"""Rows of a smaller store: every id keeps one embedding, the sums are those promised, and only tables too large are touched."""

import numpy as np
import pytest

from unisc.data.columns import load
from unisc.data.features import FeatureSpec, Field, Table
from unisc.data.hashing import HashConfig, RowMap
from unisc.data.pack import BatchShape
from unisc.data.pipeline import PackedRequests
from unisc.errors import InputError

COLLISIONS = ("share", "double", "quotient_remainder")


def spec_of(*sizes):
    tables = tuple(Table(name=f"t{i}", num_rows=n) for i, n in enumerate(sizes))
    fields = tuple(Field(name=t.name, group="item", level="candidate", table=t.name) for t in tables)
    return FeatureSpec(tables=tables, fields=fields, numeric=(), domains=("a",), tasks=("click",), history_len=0)


@pytest.mark.parametrize("collision", COLLISIONS)
def test_ids_stay_in_their_table_and_the_absent_value_and_small_tables_keep_their_rows(collision):
    row_map = RowMap(spec_of(5, 1000, 40, 3000), HashConfig(hash_rows=200, collision=collision))
    assert [t.num_rows for t in row_map.spec.tables] == [5, 200, 40, 200]
    none, parts = row_map.spec.num_rows, row_map.rows(np.arange(row_map.whole.num_rows))
    for table, first, whole in zip(
        row_map.spec.tables, row_map.whole.table_offsets().values(), (5, 1000, 40, 3000), strict=True
    ):
        start = row_map.spec.table_offsets()[table.name]
        own = parts[first : first + whole]
        assert (own[0] == [start, none][: own.shape[1]]).all()
        if whole == table.num_rows:
            np.testing.assert_array_equal(own[:, 0], start + np.arange(whole))
            assert (own[:, 1:] == none).all()
        else:
            assert own[1:].min() > start and own[1:].max() < start + table.num_rows
            counts = np.bincount(own[1:, 0] - start, minlength=table.num_rows)[1:]
            assert counts.max() < 5 * counts.mean() + 8  # spread, not heaped


def test_quotient_and_remainder_tell_all_ids_apart_and_two_hashes_nearly_all():
    for collision in ("quotient_remainder", "double"):
        row_map = RowMap(spec_of(3000), HashConfig(hash_rows=200, collision=collision))
        pairs = row_map.rows(np.arange(1, 3000))
        distinct = len(np.unique(np.sort(pairs, axis=1), axis=0))
        # Of n ids, about n^2 / 2 pairs meet in one of 199^2 / 2 unordered pairs of rows.
        assert distinct == 2999 if collision == "quotient_remainder" else abs(distinct - (2999 - 2999**2 / 199**2)) < 50


@pytest.mark.parametrize("num_ids", [3, 10, 99, 100, 101, 12345])
def test_quotients_and_remainders_fit_in_the_least_number_of_rows_that_an_error_names(num_ids):
    try:
        RowMap(spec_of(num_ids + 1), HashConfig(hash_rows=2, collision="quotient_remainder"))
    except InputError as e:
        least = int(str(e).rsplit(" ", 1)[1])
        if least <= num_ids:
            rows = RowMap(spec_of(num_ids + 1), HashConfig(hash_rows=least, collision="quotient_remainder"))
            parts = rows.rows(np.arange(1, num_ids + 1))
            assert parts.max() < least and len(np.unique(parts, axis=0)) == num_ids


@pytest.mark.parametrize("collision", COLLISIONS)
def test_a_batch_reads_the_rows_of_its_ids(collision, columns, shape):
    row_map = RowMap(columns.spec, HashConfig(hash_rows=16, collision=collision))
    table = np.random.default_rng(0).normal(size=(row_map.spec.num_rows + 1, 3))
    table[-1] = 0
    for batch in (PackedRequests(columns, shape, seed=0)[i] for i in range(3)):
        new = row_map(batch)
        real = batch.unique_rows < columns.spec.num_rows
        wanted = np.zeros((len(real), 3))
        wanted[real] = table[row_map.rows(batch.unique_rows[real])].sum(axis=1)
        stored = new.unique_rows[new.unique_rows < row_map.spec.num_rows]
        assert len(np.unique(stored)) == len(stored)
        rows = np.concatenate([table[np.minimum(new.unique_rows, len(table) - 1)], np.zeros((1, 3))])
        if new.row_parts is not None:
            rows = rows[new.row_parts].sum(axis=1)
        for name in ("request_ids", "candidate_ids", "history_ids"):
            np.testing.assert_allclose(rows[getattr(new, name)], wanted[getattr(batch, name)])
        assert (new.row_parts is None) == (collision == "share")


def test_batches_of_a_run_have_one_shape_and_do_not_change_without_hashing(columns, shape):
    batches = [PackedRequests(columns, shape, seed=0)[i] for i in range(3)]
    for collision in COLLISIONS:
        row_map = RowMap(columns.spec, HashConfig(hash_rows=16, collision=collision))
        shapes = {tuple(None if x is None else (x.shape, x.dtype) for x in row_map(b)) for b in batches}
        assert len(shapes) == 1
        assert RowMap(columns.spec, HashConfig(hash_rows=10**6, collision=collision))(batches[0]) is batches[0]
    assert RowMap(columns.spec, HashConfig())(batches[0]) is batches[0]


def test_bad_options_are_one_clear_error():
    with pytest.raises(InputError, match="hash_rows 1: give 0 for no hashing"):
        HashConfig(hash_rows=1)
    with pytest.raises(InputError, match="collision 'cuckoo': unknown; give one of share, double, quotient_remainder"):
        HashConfig(collision="cuckoo")
    with pytest.raises(InputError, match="hash_rows 10: too few to tell the 999 ids of table t0 apart"):
        RowMap(spec_of(1000), HashConfig(hash_rows=10, collision="quotient_remainder"))


@pytest.fixture(scope="module")
def columns(tiny, tmp_path_factory):
    train, test = tiny.random_requests(60, seed=1), tiny.random_requests(5, seed=2, first_id=1000)
    samples = tiny.write_samples(tmp_path_factory.mktemp("hashing") / "exposed", train=train, test=test)
    return load(samples, "train", history_len=3)


@pytest.fixture(scope="module")
def shape(columns):
    return BatchShape.of(columns.spec, candidates=64, mean_list_len=columns.num_examples / columns.num_requests)
