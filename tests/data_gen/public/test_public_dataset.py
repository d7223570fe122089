"""Converted tables as TFDS datasets: the library alone reads every row of every table, split by split."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st

from data_gen.public import dataset
from data_gen.public.adapter import INTERACTIONS, RANKED_LISTS, SEQUENCES, Adapter, Converted, convert
from data_gen.public.dataset import PublicTable, write_datasets
from unisc.data import manifest
from unisc.data.schema import KINDS, LOG_TABLES
from unisc.errors import InputError

TEST_START = 160


def table(name, rows, without=()):
    declared = {**LOG_TABLES, **{t.name: t for t in (INTERACTIONS, SEQUENCES, RANKED_LISTS)}}[name].columns
    return pa.Table.from_pylist(rows, schema=pa.schema([f for f in declared if f.name not in without]))


def logs(num_requests=10):
    requests = [
        {"request_id": i, "user_id": i % 3, "ts": 100 + 10 * (i * 7 % 10), "domain": ("search", "rec")[i % 2],
         "query_id": 0 if i % 2 == 0 else None, "scene": i}
        for i in range(num_requests)
    ]  # fmt: skip
    candidates = [
        {"request_id": r["request_id"], "item_id": k, "rank": k, "exposed": k < 2, "position": k if k < 2 else None}
        for r in requests
        for k in range(3)
    ]
    events = [
        {"user_id": r["user_id"], "item_id": 1, "ts": r["ts"] + 1, "domain": r["domain"], "kind": KINDS[r["request_id"] % 3],
         "request_id": r["request_id"] if r["scene"] % 3 else None}
        for r in requests
    ]  # fmt: skip
    return {
        "items": table("items", [{"item_id": i, "title": f"été {i}", "attribute_ids": [i] * i} for i in range(3)],
                       without={"category_1", "category_2", "category_3", "brand_id", "shop_id", "price", "created_ts"}),
        "users": table("users", [{"user_id": i} for i in range(3)], without={"segment", "budget"}),
        "queries": table("queries", [{"query_id": 0, "text": "a", "category_3": None, "brand_id": 4, "attribute_ids": None}]),
        "requests": table("requests", requests, without={"shop_id"}),
        "candidates": table("candidates", candidates, without={"price", "propensity"}),
        "events": table("events", events),
    }  # fmt: skip


def sequences():
    rows = [
        {"sequence_id": i, "user_id": i if i % 2 else None, "item_ids": list(range(i)),
         "target_id": i if split != "train" else None, "split": split}
        for i, split in enumerate(["train", "valid", "test", "train", "train", "test", "train"])
    ]  # fmt: skip
    return {"sequences": table("sequences", rows), "items": logs()["items"]}


def lists():
    rows = [
        {"list_id": i, "user_id": i, "query_id": i, "item_ids": [1, 2][: i + 1], "labels": [0, 3][: i + 1],
         "history_item_ids": [5] * i, "history_kinds": [2] * i, "history_query_ids": [-1] * i, "history_ages": [9**9] * i,
         "split": "train" if i else "test"}
        for i in range(2)
    ]  # fmt: skip
    return {"ranked_lists": table("ranked_lists", rows)}


def interactions(n=20):
    rows = [{"user_id": i % 5, "item_id": i, "split": "test" if i % 4 == 0 else "train"} for i in range(n)]
    return {"interactions": table("interactions", rows)}


SOURCES = {
    "logs": Converted(tables=logs(), domains=("search", "rec"), test_start=TEST_START, end_ts=192, quality={"rows": 10}),
    "events": Converted(tables={k: v for k, v in logs().items() if k in ("items", "users", "events")},
                        domains=("search", "rec"), test_start=TEST_START),
    "lists": Converted(tables=lists()),
    "sequences": Converted(tables=sequences()),
    "pairs": Converted(tables=interactions()),
}  # fmt: skip


def converted(out, source="logs", tables=None):
    made = SOURCES[source] if tables is None else Converted(tables=tables)
    adapter = Adapter(
        name="shop_log", title="A shop's log", source="https://shop.example", licence="CC BY 4.0", gives=("all there is",),
        cannot_give=("what there is not",), columns={}, read=lambda path: made,
    )  # fmt: skip
    out.parent.mkdir(exist_ok=True)
    convert(adapter, out.parent, out)
    return out


def read(directory, name):
    """The rows of every split, as the library alone gives them with what lies beside the records."""
    builder = tfds.builder_from_directory(directory / name)
    said, out = builder.info.metadata, {}
    for split in builder.info.splits:
        out[split] = [row for block in builder.as_data_source(split) for row in rows_of(block, said)]
    return out


def rows_of(block, said):
    columns = {}
    for name in said["columns"]:
        values = [v.decode() if isinstance(v, bytes) else v for v in block[name].tolist()]
        if name in said["names"]:
            values = [said["names"][name][code] for code in values]
        if name in said["lengths"]:
            ends = np.cumsum(block[said["lengths"][name]]).tolist()
            values = [values[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)]
        columns[name] = values
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def expected(rows, fills):
    def filled(name, value):
        return ([] if name.endswith("ids") else fills[name]) if value is None else value

    return [{name: filled(name, value) for name, value in row.items()} for row in rows.to_pylist()]


@pytest.mark.parametrize("source", SOURCES)
def test_every_row_of_every_table_comes_back_in_its_split(tmp_path, source):
    made = write_datasets(converted(tmp_path / "in", source), tmp_path / "out", rows_per_block=3)
    tables = SOURCES[source].tables
    assert sorted(p.name for p in (tmp_path / "out").iterdir() if p.is_dir()) == sorted(tables)
    for name, rows in tables.items():
        said = json.loads((tmp_path / "out" / name / "metadata.json").read_text())
        assert all(
            said["names"][c] == v for c, v in (("kind", list(KINDS)), ("domain", ["search", "rec"])) if c in said["names"]
        )
        found, every = read(tmp_path / "out", name), expected(rows, said["fills"])
        if "split" in rows.column_names:
            parts = {split: [r for r in every if r["split"] == split] for split in sorted(set(rows["split"].to_pylist()))}
        elif "ts" in rows.column_names:
            parts = {"train": [r for r in every if r["ts"] < TEST_START], "test": [r for r in every if r["ts"] >= TEST_START]}
            assert all(parts.values())
        else:
            parts = {"whole": every}
        assert found == parts
        together = tfds.builder_from_directory(tmp_path / "out" / name).as_data_source("all")
        assert [row for block in together for row in rows_of(block, said)] == [row for part in found.values() for row in part]
        assert {split: made["counts"][f"{name}/{split}"] for split in parts} == {s: len(p) for s, p in parts.items()}


def test_the_manifest_says_what_it_was_made_from_and_whose_it_is(tmp_path):
    source = converted(tmp_path / "in")
    made = write_datasets(source, tmp_path / "out")
    assert manifest.read(tmp_path / "out", kind=dataset.KIND, verify=True) == made
    of = manifest.read(source, kind="logs")
    assert made["config"]["source"] == "shop_log"
    assert made["config"]["made_from"] == {"kind": "logs", "fingerprint": of["fingerprint"]}
    for name in ("licence", "homepage", "gives", "cannot_give", "domains", "test_start", "end_ts", "quality"):
        assert made[name] == of[name]
    files = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert made["shards"].keys() == files - {"manifest.json"}
    info = tfds.builder_from_directory(tmp_path / "out" / "events").info
    assert (info.name, info.config_name, info.homepage) == ("shop_log", "events", "https://shop.example")
    assert (tmp_path / "out" / "events" / "LICENSE").read_text() == "CC BY 4.0"
    assert "Cannot give what there is not." in info.description
    assert str(tmp_path) not in "".join(p.read_text() for p in (tmp_path / "out").rglob("*.json"))


def test_equal_tables_make_equal_bytes_in_every_process(tmp_path):
    source = converted(tmp_path / "in")
    made = write_datasets(source, tmp_path / "out", rows_per_block=2, num_shards=2)
    code = (
        "import sys; from pathlib import Path; from data_gen.public.dataset import write_datasets\n"
        "print(write_datasets(Path(sys.argv[1]), Path(sys.argv[2]), rows_per_block=2, num_shards=2)['fingerprint'])\n"
        "assert 'tensorflow' not in sys.modules"
    )
    command = [sys.executable, "-c", code, str(source), str(tmp_path / "again")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
    assert (done.stdout.split(), done.stderr) == ([made["fingerprint"]], "")
    assert len(list((tmp_path / "out" / "candidates").glob("*.array_record-*-of-00002"))) == 2


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    splits=st.lists(st.sampled_from(["train", "valid", "test"]), max_size=20),
    rows_per_block=st.integers(1, 5),
    num_files=st.integers(1, 3),
)
def test_rows_keep_their_order_within_a_split_however_they_are_cut(tmp_path_factory, splits, rows_per_block, num_files):
    root = tmp_path_factory.mktemp("cut")
    rows = [{"user_id": 0, "item_id": i, "split": split} for i, split in enumerate(splits)]
    source = converted(root / "in", tables={"interactions": table("interactions", rows)})
    cuts = np.linspace(0, len(rows), num_files + 1).astype(int)
    for i in range(num_files):
        part = table("interactions", rows[cuts[i] : cuts[i + 1]])
        pq.write_table(part, source / "interactions" / f"part-{i:05d}.parquet")
    reseal(source)
    write_datasets(source, root / "out", rows_per_block=rows_per_block)
    wanted = {split: [r for r in rows if r["split"] == split] for split in sorted(set(splits))} or {"whole": []}
    assert read(root / "out", "interactions") == wanted


def reseal(directory, **changed):
    """Write the manifest anew, so that checksums are right again."""
    made = json.loads((directory / "manifest.json").read_text()) | changed
    kept = {k: v for k, v in made.items() if k not in ("fingerprint", "kind", "schema_version", "config", "counts", "shards")}
    manifest.write(directory, kind=made["kind"], config=made["config"], counts=made["counts"], **kept)


def test_tables_that_an_adapter_left_without_rows_are_kept(tmp_path):
    empty = {name: rows.slice(0, 0) for name, rows in logs().items()}
    write_datasets(converted(tmp_path / "in", tables=empty), tmp_path / "out")
    assert read(tmp_path / "out", "events") == {"whole": []}


def change(name, **columns):
    def damage(directory):
        file = directory / name / "part-00000.parquet"
        rows = pq.read_table(file)
        for column, values in columns.items():
            at = rows.schema.get_field_index(column)
            values = pa.array([values] * len(rows)) if isinstance(values, str) else values
            rows = rows.append_column(column, values) if at < 0 else rows.set_column(at, column, values)
        pq.write_table(rows, file)
        reseal(directory)

    return damage


def truncate(directory):
    file = directory / "events" / "part-00000.parquet"
    file.write_bytes(file.read_bytes()[:-9])


def truncate_and_reseal(directory):
    truncate(directory)
    reseal(directory)


def second_part(directory):
    pq.write_table(logs()["events"].drop_columns("request_id"), directory / "events" / "part-00001.parquet")
    reseal(directory)


def drop(*names):
    def damage(directory):
        made = json.loads((directory / "manifest.json").read_text())
        (directory / "manifest.json").write_text(json.dumps({k: v for k, v in made.items() if k not in names}))

    return damage


DAMAGE = {
    r"events/part-00000.parquet: does not match": truncate,
    r"events/part-00000.parquet: cannot be read \(ArrowInvalid\)": truncate_and_reseal,
    r"part-00001.parquet: has other columns than part-00000": second_part,
    r"part-00000.parquet: column weight is string, which its table does not declare": change("events", weight="x"),
    r"part-00000.parquet: column ts is string": change("events", ts="x"),
    r"events: column ts holds nulls": change("events", ts=pa.array([150] * 9 + [None])),
    r"column domain: 'shop' is not one of": change("events", domain="shop"),
    r"column kind: 'view' is not one of": change("events", kind="view"),
    r"manifest.json: says nothing of licence": drop("licence"),
    r"manifest.json: not a readable manifest": drop("kind"),
    r"no manifest.json, so not a finished converted tables directory": lambda d: (d / "manifest.json").unlink(),
    r"holds samples, but converted tables are needed": lambda d: reseal(d, kind="samples"),
    r"manifest.json: names no source": lambda d: reseal(d, config={"source": "../other"}),
}


@pytest.mark.parametrize("message", DAMAGE)
def test_what_is_not_as_converted_is_refused_by_name_and_leaves_nothing(tmp_path, message):
    source = converted(tmp_path / "in")
    DAMAGE[message](source)
    with pytest.raises(InputError, match=message) as error:
        write_datasets(source, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("split", ["", "all", "whole", "a/b", "Train", None])
def test_a_split_that_cannot_be_named_is_refused(tmp_path, split):
    rows = [{"user_id": 0, "item_id": 0, "split": split}, {"user_id": 0, "item_id": 1, "split": "train"}]
    source = converted(tmp_path / "in", tables={"interactions": table("interactions", rows)})
    with pytest.raises(InputError, match=f"interactions: column split holds {split!r}"):
        write_datasets(source, tmp_path / "out")


def test_an_unknown_table_and_an_output_that_is_there_are_refused(tmp_path):
    source = converted(tmp_path / "in")
    with pytest.raises(InputError, match="oracle: no such table; give one of items, users, queries, requests"):
        PublicTable(source, "oracle", data_dir=tmp_path)
    shutil.copytree(source, tmp_path / "out")
    with pytest.raises(InputError, match="out: already exists"):
        write_datasets(source, tmp_path / "out")
