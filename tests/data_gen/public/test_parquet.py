"""The reader of Parquet sources: what it converts, and one line for what it cannot use."""

import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_gen.public import parquet
from data_gen.public.delimited import Source, needed
from unisc.errors import InputError

NEW_YEAR = datetime.datetime(2011, 1, 1, 0, 0, 0, 999_999)
SCHEMA = pa.schema(
    [
        needed("id", pa.int32()),
        ("items", pa.list_(pa.int32())),
        ("text", pa.string()),
        ("price", pa.float64()),
        ("at", pa.timestamp("us")),
    ]
)


def good(**changed):
    columns = {
        "id": pa.array([1, 2, 3], pa.int64()),
        "items": pa.array([[1], [2, 3], []], pa.large_list(pa.int64())),
        "text": pa.array(["a", None, "b"], pa.large_string()),
        "price": pa.array([1, 2.5, float("nan")], pa.float32()),
        "at": pa.array([NEW_YEAR] * 3, pa.timestamp("us")),
        "unread": pa.array([1, 2, 3]),
    }
    return pa.table(columns | changed)


def write(folder, table, **options):
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / "a.parquet", **options)
    return folder / "a.parquet"


def test_columns_come_in_the_declared_types_and_order(tmp_path):
    changed = {"id": pa.array([1.0, 2.0, 3.0]), "text": pa.array(["a", None, "b"]).dictionary_encode()}
    for table in (good(), good(**changed)):
        made = parquet.read(write(tmp_path / "id=7", table), SCHEMA).table
        assert made.schema.names == SCHEMA.names
        assert made.schema.types == SCHEMA.types
        assert made["id"].to_pylist() == [1, 2, 3], "the file's, not its folder's"
        assert made["items"].to_pylist() == [[1], [2, 3], []]
        assert made["text"].to_pylist() == ["a", None, "b"]
        assert made["price"].to_pylist() == [1.0, 2.5, None]


def test_times_are_whole_seconds_of_utc(tmp_path):
    zone = pa.array([NEW_YEAR, NEW_YEAR, NEW_YEAR], pa.timestamp("us", "Europe/Berlin"))
    source = parquet.read(write(tmp_path, good()), SCHEMA)
    assert parquet.unix_seconds(source, "at").tolist() == [1_293_840_000] * 3
    zoned = pa.schema([("at", pa.timestamp("us", "UTC"))])
    source = parquet.read(write(tmp_path, good(at=zone)), zoned)
    assert parquet.unix_seconds(source, "at").tolist() == [1_293_840_000] * 3, "a zone is how a time is shown"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"id": pa.array([1, None, 3])}, "column id holds 'None' in row 2, but every row needs a value there"),
        ({"id": pa.array([1.0, 2.0, float("nan")])}, "column id holds 'nan' in row 3, but every row needs a value"),
        ({"id": pa.array([1, 2, 2**40])}, "column id holds '1099511627776' in row 3, which does not fit int32"),
        ({"id": pa.array([1, 2.5, 3])}, "column id holds '2.5' in row 2, which does not fit int32"),
        ({"id": pa.array(["1", "2", "3"])}, "column id is string; give it as int32"),
        ({"items": pa.array([[1], [2, None], []])}, r"column items holds '\[2, None\]' in row 2, but a list may hold no null"),
        ({"items": pa.array([[1], [], [2, 2**40]])}, "in row 3, which does not fit lists of int32"),
        ({"items": pa.array([1, 2, 3])}, "column items is int64; give it as lists of int32"),
        ({"at": pa.array([1, 2, 3])}, "column at is int64; give it as timestamp"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_by_row(tmp_path, changed, words):
    with pytest.raises(InputError, match=words) as caught:
        parquet.read(write(tmp_path, good(**changed), row_group_size=1), SCHEMA)
    assert str(tmp_path / "a.parquet") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_used_is_one_clear_line(tmp_path):
    with pytest.raises(InputError, match=r"a\.parquet: not found; give the folder"):
        parquet.read(tmp_path / "a.parquet", SCHEMA)
    with pytest.raises(InputError, match="column text is missing; give it once, as string"):
        parquet.read(write(tmp_path, good().drop_columns("text")), SCHEMA)
    with pytest.raises(InputError, match="column id is there more than once"):
        parquet.read(write(tmp_path, good().append_column("id", pa.array([1, 2, 3]))), SCHEMA)
    with pytest.raises(InputError, match="holds no rows"):
        parquet.read(write(tmp_path, good().slice(0, 0)), SCHEMA)
    bad_text = pa.array([b"a", b"\xff", b"b"], pa.binary()).view(pa.string())
    with pytest.raises(InputError, match="cannot be read"):
        parquet.read(write(tmp_path, good(text=bad_text)), SCHEMA)
    (tmp_path / "a.parquet").write_bytes(b"")
    for read in (lambda f: parquet.read(f, SCHEMA), parquet.columns):
        with pytest.raises(InputError, match=r"cannot be read .*; fetch the file again"):
            read(tmp_path / "a.parquet")


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(0, 255), st.booleans())
def test_a_damaged_file_is_one_line_or_a_sound_table(tmp_path_factory, place, value, cut):
    file = write(tmp_path_factory.mktemp("damaged"), good(), write_page_checksum=True)
    data = bytearray(file.read_bytes())
    place %= len(data)
    data[place] = value
    file.write_bytes(data[:place] if cut else data)
    try:
        made = parquet.read(file, SCHEMA)
    except InputError as e:
        assert "\n" not in str(e)
        assert "a.parquet: " in str(e)
    else:
        assert not cut
        assert made.table.schema.types == SCHEMA.types


def test_a_changed_value_is_found_by_its_checksum(tmp_path):
    plain = {"use_dictionary": False, "compression": "none", "write_page_checksum": True}
    file = write(tmp_path, good(), **plain)
    stored = np.array([1, 2, 3]).tobytes()
    file.write_bytes(file.read_bytes().replace(stored, np.array([1, 9, 3]).tobytes(), 1))
    with pytest.raises(InputError, match="cannot be read"):
        parquet.read(file, SCHEMA)


def test_rows_are_counted_through_all_chunks():
    chunks = pa.chunked_array([[[1], []], [[2]], [[3], [0, -1]]], pa.list_(pa.int32()))
    with pytest.raises(InputError, match=r"column items holds '\[0, -1\]' in row 5"):
        parquet.refuse_negative(Source(file=Path("a.parquet"), table=pa.table({"items": chunks}), first_row=1), "items")


def test_ids_are_refused_by_row(tmp_path):
    changed = {"id": pa.array([5, 4, 5]), "items": pa.array([[1], [], [0, -1]])}
    source = parquet.read(write(tmp_path, good(**changed), row_group_size=1), SCHEMA)
    with pytest.raises(InputError, match="column id holds '5' in row 3, as a row before it does"):
        parquet.refuse_repeats(source, "id")
    with pytest.raises(InputError, match=r"column items holds '\[0, -1\]' in row 3, a negative id"):
        parquet.refuse_negative(source, "id", "items")
    parquet.refuse_negative(source, "id")


def test_times_of_another_century_are_refused(tmp_path):
    changed = {"at": pa.array(np.array(["2011-01-01", "1970-01-02", "2011-01-01"], "datetime64[us]"))}
    with pytest.raises(InputError, match="column at holds '1970-01-02 00:00:00' in row 2, not a time of this century"):
        parquet.unix_seconds(parquet.read(write(tmp_path, good(**changed)), SCHEMA), "at")
