"""Any declared table as block records: what the library alone reads is what went in; what cannot be stored is refused."""

import itertools
import json

import numpy as np
import pyarrow as pa
import pytest
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st

from data_gen.blocks import BlockBuilder, BlockConfig, Rows, write_blocks
from data_gen.columnar import blocks
from unisc.errors import InputError

SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("small", pa.int8()),
        ("price", pa.float32()),
        ("shown", pa.bool_()),
        ("kind", pa.string()),
        ("title", pa.string()),
        ("items", pa.list_(pa.int32())),
        ("weights", pa.list_(pa.float64())),
        ("words", pa.list_(pa.string())),
    ]
)
KINDS = ("click", "cart")
ROWS = [
    {"id": 2**63 - 1, "small": -128, "price": 1.5, "shown": True, "kind": "cart", "title": "été\0\n", "items": [1, 2, 3],
     "weights": [0.1, 0.2, 0.3], "words": ["a", "b\0"]},
    {"id": -(2**63), "small": None, "price": None, "shown": None, "kind": None, "title": None, "items": [],
     "weights": [], "words": []},
    {"id": 0, "small": 127, "price": float("inf"), "shown": False, "kind": "click", "title": "", "items": None,
     "weights": None, "words": None},
    {"id": 7, "small": 5, "price": -0.0, "shown": True, "kind": "cart", "title": "shoe " * 99, "items": [-1],
     "weights": [float("nan")], "words": [""]},
]  # fmt: skip
CONFIG = BlockConfig(name="things", schema=SCHEMA, names={"kind": KINDS}, parallel=(("items", "weights"),))


class Things(BlockBuilder, skip_registration=True):
    """Gives the tables it is made with."""

    def __init__(self, splits, *, config=CONFIG, **options):
        self.splits = splits
        super().__init__(config=config, **options)

    def rows(self):
        return {name: Rows.of(table) for name, table in self.splits.items()}


def write(out, *, config=CONFIG, rows_per_block=2, num_shards=None, **splits):
    tables = {name: pa.Table.from_pylist(rows, schema=config.schema) for name, rows in splits.items()}
    options = {"rows_per_block": rows_per_block, "num_shards": num_shards, "config": config}
    write_blocks(lambda data_dir: Things(tables, data_dir=data_dir, **options), out)
    return tfds.builder_from_directory(out)


def joined(source, name):
    return np.concatenate([example[name] for example in source]).tolist()


def test_every_value_comes_back_by_the_library_alone(tmp_path):
    builder = write(tmp_path / "out", train=ROWS)
    source = builder.as_data_source("train")
    assert [e["first_row"] for e in source] == [0, 2]
    assert joined(source, "id") == [row["id"] for row in ROWS]
    assert joined(source, "small") == [-128, -1, 127, 5]
    np.testing.assert_array_equal(joined(source, "price"), [1.5, np.nan, np.inf, -0.0])
    assert joined(source, "shown") == [True, False, False, True]
    assert joined(source, "kind") == [1, -1, 0, 1]
    assert [s.decode() for s in joined(source, "title")] == ["été\0\n", "", "", "shoe " * 99]
    assert joined(source, "items_lengths") == [3, 0, 0, 1]
    assert joined(source, "items") == [1, 2, 3, -1]
    np.testing.assert_array_equal(joined(source, "weights"), [0.1, 0.2, 0.3, np.nan])
    assert "weights_lengths" not in source[0]  # parallel to items
    assert joined(source, "words_lengths") == [2, 0, 0, 1]
    assert joined(source, "words") == [b"a", b"b\0", b""]
    dtypes = {name: source[0][name].dtype for name in ("id", "small", "price", "shown", "kind", "weights", "items_lengths")}
    expected = {"id": "i8", "small": "i1", "price": "f4", "shown": "?", "kind": "i1", "weights": "f8", "items_lengths": "i4"}
    assert dtypes == expected


def test_what_the_codes_and_fills_mean_lies_beside_the_records(tmp_path):
    write(tmp_path / "out", train=ROWS, test=ROWS[:1])
    said = json.loads((tmp_path / "out" / "metadata.json").read_text())
    assert said["names"] == {"kind": list(KINDS)}
    assert said["fills"] == {"id": -1, "small": -1, "shown": False, "kind": -1, "title": "", "items": -1, "words": ""}
    assert said["lengths"] == {"items": "items_lengths", "weights": "items_lengths", "words": "words_lengths"}
    assert said["num_rows"] == {"train": 4, "test": 1}


def test_a_split_without_rows_reads_as_one_empty_block(tmp_path):
    (block,) = write(tmp_path / "out", train=ROWS, test=[]).as_data_source("test")
    assert all(len(values) == 0 for name, values in block.items() if name != "first_row")


@given(
    sizes=st.lists(st.integers(0, 9), max_size=8),
    rows_per_block=st.integers(1, 7),
    num_shards=st.none() | st.integers(1, 5),
)
@settings(max_examples=15, deadline=None, derandomize=True)
def test_rows_keep_their_order_however_they_are_cut(tmp_path_factory, sizes, rows_per_block, num_shards):
    schema = pa.schema([("x", pa.int32())])
    ends = np.cumsum([0, *sizes])
    batches = [
        pa.RecordBatch.from_arrays([pa.array(np.arange(a, b, dtype=np.int32))], schema=schema)
        for a, b in itertools.pairwise(ends)
    ]
    cut = list(blocks(batches, schema, rows_per_block))
    assert [x for b in cut for x in b.column("x").to_pylist()] == list(range(ends[-1]))
    assert all(b.num_rows == rows_per_block for b in cut[:-1])
    config = BlockConfig(name="x", schema=schema)
    out = tmp_path_factory.mktemp("order") / "out"
    rows = [{"x": i} for i in range(ends[-1])]
    source = write(out, config=config, rows_per_block=rows_per_block, num_shards=num_shards, train=rows).as_data_source("train")
    assert joined(source, "x") == list(range(ends[-1]))
    assert len(list(out.glob("*.array_record-*"))) == min(len(cut), num_shards or 1)


def test_a_fill_value_may_be_declared(tmp_path):
    config = BlockConfig(name="x", schema=pa.schema([("x", pa.int32())]), fills={"x": 99})
    source = write(tmp_path / "out", config=config, train=[{"x": -1}, {"x": None}]).as_data_source("train")
    assert joined(source, "x") == [-1, 99]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"small": -1}, "column small: holds both nulls and -1"),
        ({"kind": "view"}, "column kind: 'view' is not one of"),
        ({"weights": [1.0]}, "column weights: row 3 has another length than its items"),
    ],
)
def test_values_that_would_not_read_back_are_refused(tmp_path, change, message):
    rows = [{**ROWS[1], "items": [1, 2], "weights": [1.0, 2.0]}] * 3
    with pytest.raises(InputError, match=message) as error:
        write(tmp_path / "out", rows_per_block=4, train=[*rows, rows[0] | {"id": 3, "small": 3} | change])
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []  # nothing half-written stays


@pytest.mark.parametrize(
    ("schema", "fills", "message"),
    [
        (pa.schema([("when", pa.timestamp("s"))]), {}, "column when: timestamp.* has no layout"),
        (pa.schema([("first_row", pa.int32())]), {}, "first_row is there already"),
        (pa.schema([("x", pa.uint8())]), {}, "column x: its nulls cannot be -1"),
    ],
)
def test_columns_that_have_no_layout_are_refused(tmp_path, schema, fills, message):
    with pytest.raises(InputError, match=message):
        write(tmp_path / "out", config=BlockConfig(name="x", schema=schema, fills=fills), train=[{schema.names[0]: None}])


def test_a_table_that_is_not_the_declared_one_is_refused(tmp_path):
    table = pa.table({"x": pa.array([1], pa.int64())})
    for schema, message in (
        (pa.schema([("y", pa.int64())]), "column y: missing"),
        (pa.schema([("x", pa.int32())]), "column x: int64, not int32"),
    ):
        config = BlockConfig(name="x", schema=schema)
        with pytest.raises(InputError, match=message):
            write_blocks(lambda d, config=config: Things({"train": table}, config=config, data_dir=d), tmp_path / "out")


@pytest.mark.parametrize("declared", [1, 9])
def test_a_source_that_changes_while_it_is_read_is_noticed(tmp_path, declared):
    class Changing(Things, skip_registration=True):
        def rows(self):
            return {"train": Rows(num_rows=declared, batches=Rows.of(self.splits["train"]).batches)}

    table = pa.Table.from_pylist(ROWS, schema=SCHEMA)
    with pytest.raises(InputError, match="declared"):
        write_blocks(lambda data_dir: Changing({"train": table}, data_dir=data_dir, rows_per_block=2), tmp_path / "out")


def test_an_output_that_is_there_is_left_as_it_is(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("keep")
    with pytest.raises(InputError, match="already exists"):
        write(tmp_path / "out", train=ROWS)
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "mine"]


@pytest.mark.parametrize("option", ["rows_per_block", "num_shards"])
def test_sizes_below_one_are_refused(tmp_path, option):
    with pytest.raises(InputError, match=f"{option} 0"):
        write(tmp_path / "out", train=ROWS, **{option: 0})
