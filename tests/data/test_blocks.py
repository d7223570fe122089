"""Reading a dataset of blocks: the same columns as the memory-mapped path, and one line of error for what is not as written."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow_datasets.core import example_serializer

from data_gen.es3.dataset import write_dataset
from unisc.data import blocks, columns, manifest
from unisc.errors import InputError

ARRAYS = [f.name for f in dataclasses.fields(columns.Columns) if f.name not in ("spec", "cache")]
REQUESTS_PER_BLOCK = 16


@pytest.fixture(scope="session")
def dataset(samples, tmp_path_factory):
    """The samples as a dataset: 13 blocks of train in 3 shards, 4 of test."""
    out = tmp_path_factory.mktemp("blocks") / "dataset"
    write_dataset(samples, out, requests_per_block=REQUESTS_PER_BLOCK, num_shards=3)
    return out


@pytest.fixture
def copy(dataset, tmp_path):
    return shutil.copytree(dataset, tmp_path / "copy")


def shards(directory, split="train"):
    return sorted(directory.glob(f"*-{split}.array_record-*"))


def assert_same(found, expected):
    for name in ARRAYS:
        a, b = getattr(found, name), getattr(expected, name)
        assert a.dtype == b.dtype, name
        np.testing.assert_array_equal(a, b, err_msg=name)


def assert_one_line(error):
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


@pytest.mark.parametrize("split", columns.SPLITS)
def test_both_paths_give_the_same_columns_of_the_same_features(samples, dataset, split):
    expected = columns.load(samples, split, history_len=3)
    found = blocks.load(dataset, split, history_len=3)
    assert found.spec == expected.spec
    assert (found.num_requests, found.num_examples) == (expected.num_requests, expected.num_examples)
    assert_same(found.columns(), expected)


@pytest.mark.parametrize("fraction", [0.004, 0.3, 0.5, 1.0])
def test_a_fraction_is_the_same_prefix_in_both_paths(samples, dataset, fraction):
    expected = columns.load(samples, "train", history_len=3, fraction=fraction)
    found = blocks.load(dataset, "train", history_len=3, fraction=fraction)
    assert found.num_requests == len(found.lengths) == expected.num_requests
    assert_same(found.columns(), expected)


def test_blocks_are_read_in_the_order_asked_for(dataset):
    data = blocks.load(dataset, "train", history_len=3)
    whole = data.columns()
    some = data.read([5, 12, 0])
    expected = [whole.request_id[data.rows_of(block)] for block in (5, 12, 0)]
    assert [len(e) for e in expected] == [16, 200 - 12 * 16, 16]
    np.testing.assert_array_equal(some.request_id, np.concatenate(expected))


def test_features_without_positions_or_prices_are_absent_in_both_paths(tiny, tmp_path):
    rows = [tiny.request(item_id=[0, 1], exposed=[False, False], history=[])]
    source = tiny.write_samples(tmp_path / "s", train=rows, test=rows)
    write_dataset(source, tmp_path / "d")
    found, expected = blocks.load(tmp_path / "d", "train", history_len=2), columns.load(source, "train", history_len=2)
    assert found.spec == expected.spec
    assert_same(found.columns(), expected)


def test_a_share_outside_its_range_and_a_split_without_candidates_are_named(tiny, dataset, tmp_path):
    with pytest.raises(InputError, match="fraction 0"):
        blocks.load(dataset, "train", history_len=3, fraction=0.0)
    source = tiny.write_samples(tmp_path / "s", train=[], test=[tiny.request(item_id=[0])], num_shards=1)
    write_dataset(source, tmp_path / "d")
    with pytest.raises(InputError, match="train split holds no candidates"):
        blocks.load(tmp_path / "d", "train", history_len=3)


def remove(directory):
    shards(directory)[1].unlink()


def truncate(directory):
    shards(directory)[1].write_bytes(shards(directory)[1].read_bytes()[:-7])


def flip(directory):
    raw = bytearray(shards(directory)[1].read_bytes())
    raw[200] ^= 1
    shards(directory)[1].write_bytes(raw)


def swap(directory):
    a, b = shards(directory)[:2]
    kept = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(kept)


def edit(name, change):
    def damage(directory):
        said = json.loads((directory / name).read_text())
        change(said)
        (directory / name).write_text(json.dumps(said))

    return damage


def empty_items(directory):
    for file in (directory / "items").iterdir():
        file.write_bytes(b"")


DAMAGE = {
    "array_record-00001-of-00003: named by the manifest but missing": remove,
    "array_record-00001-of-00003: does not match": truncate,
    "array_record-00001-of-00003: does not match ": flip,
    "array_record-00000-of-00003: does not match": swap,
    "dataset_info.json: does not match": edit("dataset_info.json", lambda d: d.update(name="other")),
    "features.json: does not match": edit("features.json", lambda d: d.clear()),
    "items/part-00000.parquet: does not match": empty_items,
    "manifest.json: does not match its own fingerprint": edit("manifest.json", lambda d: d["config"]["domains"].reverse()),
    "manifest.json: does not match its own": edit("manifest.json", lambda d: d["config"]["layout"].update(max_scene=99)),
    "count different requests": edit("manifest.json", lambda d: d["counts"].update(train_requests=199)),
    r"config or counts cannot be read \(KeyError: 'train_requests'\)": edit("manifest.json", lambda d: d["counts"].clear()),
    r"config or counts cannot be read \(ValueError: invalid literal": edit(
        "manifest.json", lambda d: d["counts"].update(train_requests="many")
    ),
    "manifest.json: not a readable manifest": edit("manifest.json", lambda d: d["shards"].update(x=1)),
    "manifest.json: does not match its": edit("manifest.json", lambda d: d.pop("config")),
    "items/part-00007.parquet: not named by the manifest": lambda d: shutil.copy(
        d / "items" / "part-00000.parquet", d / "items" / "part-00007.parquet"
    ),
    "holds samples, but blocks": edit("manifest.json", lambda d: d.update(kind="samples")),
    "no manifest.json": lambda d: (d / "manifest.json").unlink(),
}


@pytest.mark.parametrize("message", DAMAGE)
def test_files_that_are_not_what_the_manifest_says_are_refused_by_name(copy, message):
    DAMAGE[message](copy)
    with pytest.raises(InputError, match=message.strip()) as error:
        blocks.load(copy, "train", history_len=3)
    assert_one_line(error)


def test_samples_and_foreign_datasets_are_told_apart_from_blocks(samples, dataset, tmp_path):
    with pytest.raises(InputError, match="holds samples, but blocks are needed"):
        blocks.load(samples, "train", history_len=3)
    foreign = shutil.copytree(dataset, tmp_path / "foreign")
    for file in [foreign / "dataset_info.json", *shards(foreign)]:
        file.unlink()
    manifest.write(
        foreign, kind="blocks", config=manifest.read(dataset, kind="blocks")["config"], counts={"train_requests": 200}
    )
    with pytest.raises(InputError, match="not a dataset with a train split") as error:
        blocks.load(foreign, "train", history_len=3)
    assert_one_line(error)


def rewrite(directory, shard, change):
    """Change the examples of a shard, as a faulty writer would: every checksum of the file is right."""
    features = tfds.builder_from_directory(directory).info.features
    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    reader = ArrayRecordReader(str(shard))
    examples = [dict(features.deserialize_example_np(reader.read([i])[0])) for i in range(reader.num_records())]
    reader.close()
    writer = ArrayRecordWriter(str(shard), "group_size:1")
    for example in change(examples):
        writer.write(serializer.serialize_example(features.encode_example(example)))
    writer.close()
    made = json.loads((directory / "manifest.json").read_text())
    manifest.write(directory, kind="blocks", config=made["config"], counts=made["counts"])


def second(**columns_changed):
    def change(examples):
        examples[1] |= {name: f(examples[1][name]) for name, f in columns_changed.items()}
        return examples

    return change


FAULTS = {
    "column price has shape": second(price=lambda x: x[:-1]),
    "column history_age has shape": second(history_age=lambda x: np.append(x, x[:1])),
    "column user_id has shape": second(user_id=lambda x: x[:-1]),
    "column item_id has lengths": second(item_id_lengths=lambda x: x[:-1]),
    "column history_item_id has lengths": second(history_item_id_lengths=lambda x: np.append(x[1:], np.int32(-1))),
    "holds other numbers of candidates": second(item_id_lengths=lambda x: x[::-1]),
    "holds the requests from 16 on, not those from 0": lambda examples: [examples[1], examples[0], *examples[2:]],
}


@pytest.mark.parametrize("message", FAULTS)
def test_a_block_that_disagrees_with_itself_or_with_its_place_is_refused(copy, message):
    rewrite(copy, shards(copy)[0], FAULTS[message])
    data = blocks.load(copy, "train", history_len=3)
    with pytest.raises(InputError, match=message) as error:
        data.columns()
    assert_one_line(error)
    assert f"{shards(copy)[0].name}, record {0 if 'requests from' in message else 1}:" in str(error.value)


@pytest.mark.parametrize(("name", "dtype", "other"), [("user_id", "int32", "float32"), ("click_ts", "int64", "uint64")])
def test_columns_declared_of_another_type_are_refused(copy, name, dtype, other):
    said = json.loads((copy / "features.json").read_text())
    tensor = said["featuresDict"]["features"][name]["tensor"]
    assert tensor["dtype"] == dtype
    tensor["dtype"] = other
    (copy / "features.json").write_text(json.dumps(said))
    made = json.loads((copy / "manifest.json").read_text())
    manifest.write(copy, kind="blocks", config=made["config"], counts=made["counts"])
    with pytest.raises(InputError, match=f"record 0: column {name} is {other}, not {dtype}") as error:
        blocks.load(copy, "train", history_len=3).columns()
    assert_one_line(error)


@pytest.mark.parametrize(
    ("name", "value", "message"), [("item_id", 10**6, "item"), ("click", 3, "neither 0 nor 1"), ("domain", 9, "domain")]
)
def test_a_value_no_table_holds_is_refused(copy, name, value, message):
    rewrite(copy, shards(copy)[0], second(**{name: lambda x: np.full_like(x, value)}))
    with pytest.raises(InputError, match=message) as error:
        blocks.load(copy, "train", history_len=3).columns()
    assert_one_line(error)


def damaged(raw, kind, at, size, fill):
    place = int(at * len(raw))
    if kind == "flip":
        return raw[:place] + bytes([raw[place] ^ (1 << fill % 8)]) + raw[place + 1 :]
    if kind == "truncate":
        return raw[:place]
    return raw[:place] + bytes([fill]) * min(size, len(raw) - place) + raw[place + size :]


DAMAGES = {
    "kind": st.sampled_from(["flip", "flip", "truncate", "overwrite"]),
    "at": st.floats(0, 1, exclude_max=True),
    "size": st.sampled_from([1, 16, 4096]),
    "fill": st.integers(0, 255),
}


def read_damaged_shard(dataset, directory, verify, **damage):
    """Read a dataset of which one shard is damaged; it must be refused in one line or be as it was."""
    copy = shutil.copytree(dataset, directory / "copy")
    shard = shards(copy)[1]
    # Padding is most of so small a file, and damage there does no harm.
    raw = shard.read_bytes()
    used = len(raw.rstrip(b"\0")) if damage["at"] < 0.8 else len(raw)
    shard.write_bytes(damaged(raw[:used], **damage) + (b"" if damage["kind"] == "truncate" else raw[used:]))
    if not verify:  # the file itself is all there is to notice it by
        made = json.loads((copy / "manifest.json").read_text())
        manifest.write(copy, kind="blocks", config=made["config"], counts=made["counts"])
    try:
        found = blocks.load(copy, "train", history_len=3, verify=verify).columns()
    except InputError as error:
        assert "\n" not in str(error) and shard.name in str(error)
        return True
    finally:
        shutil.rmtree(copy)
    assert_same(found, blocks.load(dataset, "train", history_len=3).columns())
    return False


@given(**DAMAGES)
@settings(max_examples=50, deadline=None, derandomize=True)
def test_a_damaged_shard_is_refused_or_does_no_harm(dataset, tmp_path_factory, **damage):
    read_damaged_shard(dataset, tmp_path_factory.mktemp("damage"), False, **damage)


@pytest.mark.slow
@given(verify=st.booleans(), **DAMAGES)
@settings(max_examples=2000, deadline=None, derandomize=True)
def test_many_damaged_shards_are_refused_or_do_no_harm(dataset, tmp_path_factory, verify, **damage):
    read_damaged_shard(dataset, tmp_path_factory.mktemp("damage"), verify, **damage)


@given(
    name=st.sampled_from(["manifest.json", "dataset_info.json", "features.json", "metadata.json", "lengths/train.npy"]),
    **DAMAGES,
)
@settings(max_examples=50, deadline=None, derandomize=True)
def test_a_damaged_description_is_refused_or_does_no_harm(dataset, tmp_path_factory, name, **damage):
    copy = shutil.copytree(dataset, tmp_path_factory.mktemp("damage") / "copy")
    (copy / name).write_bytes(damaged((copy / name).read_bytes(), **damage))
    try:
        found = blocks.load(copy, "train", history_len=3).columns()
    except InputError as error:
        assert "\n" not in str(error)
        return
    assert_same(found, blocks.load(dataset, "train", history_len=3).columns())


def test_damage_that_comes_while_it_is_read_is_noticed(copy):
    data = blocks.load(copy, "train", history_len=3)
    flip(copy)
    with pytest.raises(InputError, match=r"00001-of-00003, record 0: cannot be read \(RuntimeError") as error:
        data.columns()
    assert_one_line(error)
