"""A dataset directory damaged in any cheap way is refused in one line that names the file, or reads exactly as before.

A damage that is `sealed` comes with a manifest made anew: all checksums are right, as those of a faulty writer would be.
"""

import dataclasses
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_gen.es3.dataset import write_dataset
from unisc.data import blocks, columns, manifest
from unisc.errors import InputError

ARRAYS = [f.name for f in dataclasses.fields(columns.Columns) if f.name not in ("spec", "cache")]
NUM_SHARDS = 3
VALUES = (
    None,
    True,
    0,
    -1,
    3,
    2**70,
    0.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    "../x",
    "a\0b",
    "x" * 5000,
    [],
    {},
    [[]],
    {"a": 1},
)
"""What a value of a JSON file is replaced by."""


@pytest.fixture(scope="session")
def dataset(samples, tmp_path_factory):
    """200 train and 60 test requests in three shards each."""
    out = tmp_path_factory.mktemp("fuzz") / "dataset"
    write_dataset(samples, out, requests_per_block=8, num_shards=NUM_SHARDS)
    return out


@pytest.fixture(scope="session")
def expected(dataset):
    return {split: blocks.load(dataset, split, history_len=3).columns() for split in columns.SPLITS}


def files_of(directory, pattern="*"):
    return sorted(p for p in directory.rglob(pattern) if p.is_file())


def pick(rng, choices):
    return choices[int(rng.integers(len(choices)))]


def flip(rng, file):
    raw = bytearray(file.read_bytes())
    for _ in range(int(rng.integers(1, 4))):
        raw[place(rng, raw)] ^= 1 << int(rng.integers(8))
    file.write_bytes(raw)


def place(rng, raw):
    """A byte of a file; most of a small shard is padding, where damage does no harm."""
    used = len(raw.rstrip(b"\0")) if rng.random() < 0.8 else len(raw)
    return int(rng.integers(max(used, 1)))


def truncate(rng, file):
    raw = file.read_bytes()
    file.write_bytes(raw[: place(rng, raw)])


def overwrite(rng, file):
    raw = bytearray(file.read_bytes())
    at = place(rng, raw)
    size = min(int(pick(rng, (1, 16, 4096))), len(raw) - at)
    raw[at : at + size] = rng.bytes(size) if rng.random() < 0.5 else b"\0" * size
    file.write_bytes(raw)


def drop_bytes(rng, file):
    raw = file.read_bytes()
    at = place(rng, raw)
    file.write_bytes(raw[:at] + raw[at + int(rng.integers(1, 100)) :])


def append(rng, file):
    with file.open("ab") as f:
        f.write(pick(rng, (b"\0", b"\n", rng.bytes(100), file.read_bytes())))


def empty(rng, file):
    file.write_bytes(b"")


def remove(rng, file):
    file.unlink()


def folder(rng, file):
    file.unlink()
    file.mkdir()


def dangling(rng, file):
    file.unlink()
    file.symlink_to("nowhere")


def stray(rng, file):
    """Add a copy of a file under another name, as one left from another run would be."""
    names = (file.name.replace("00000", "00007"), f"0{file.name}", f"{file.name}.copy", f"x{file.name}")
    added = file.with_name(pick(rng, [name for name in names if name != file.name]))
    shutil.copyfile(file, added)
    if file.suffix == ".parquet":  # with other contents, so that reading it would show
        rows = pq.read_table(file)
        changed = [rows[0], *(column.take(np.arange(len(rows))[::-1]) for column in rows.columns[1:])]
        pq.write_table(pa.table(changed, schema=rows.schema), added)


def retype(rng, file):
    """Declare one column's values as of another type."""
    types = ("int8", "int32", "int64", "float32", "bool", "uint8", "uint32", "uint64")
    parts = file.read_text().split('"dtype": "')
    at = int(rng.integers(1, len(parts)))
    parts[at] = pick(rng, types) + parts[at][parts[at].index('"') :]
    file.write_text('"dtype": "'.join(parts))


def swap(rng, file):
    other = pick(rng, [f for f in files_of(file.parent) if f.suffix == file.suffix or "array_record" in f.name])
    kept = file.read_bytes()
    file.write_bytes(other.read_bytes())
    other.write_bytes(kept)


def replace(rng, file):
    """Put another file of the directory in its place."""
    other = pick(rng, files_of(file.parent))
    file.write_bytes(other.read_bytes())


BYTES = (flip, truncate, overwrite, drop_bytes, append, empty, remove, folder, dangling, stray, swap, replace)


def edit_json(rng, file):
    """Change, remove or double one value anywhere in a JSON file."""
    said = json.loads(file.read_text())
    holder, depth = said, int(rng.integers(4))
    key = pick(rng, sorted(holder))
    while depth and isinstance(holder[key], (dict, list)) and holder[key]:
        holder, depth = holder[key], depth - 1
        key = pick(rng, sorted(holder) if isinstance(holder, dict) else range(len(holder)))
    how = rng.random()
    if how < 0.6:
        holder[key] = pick(rng, VALUES)
    elif how < 0.8:
        del holder[key]
    elif isinstance(holder, dict):
        holder[f"{key}x"] = holder.pop(key)
    else:
        holder.append(holder[key])
    file.write_text(json.dumps(said))


def nest(rng, file):
    file.write_text('{"kind": ' + "[" * 100_000 + "]" * 100_000 + "}")


EDITS = (edit_json, edit_json, edit_json, nest)
PLANS = (
    ("manifest.json", (edit_json,), False),
    ("manifest.json", (edit_json,), False),
    ("manifest.json", (*BYTES, nest), False),
    ("*.array_record-*", BYTES, False),
    ("*.array_record-*", BYTES, True),
    ("*.array_record-*", (flip, truncate, overwrite, drop_bytes, swap, replace), True),
    ("*.npy", BYTES, False),
    ("*.npy", BYTES, True),
    ("*.parquet", BYTES, False),
    ("*.parquet", (flip, stray), False),
    ("[dfm]*[!t].json", (*BYTES, *EDITS), False),
    ("[dfm]*[!t].json", (*BYTES, *EDITS), True),
    ("features.json", (retype,), True),
)
"""Which files are damaged, how, and whether it is sealed: only what is checked beyond checksums can be, as another item table
with right checksums is another dataset."""


def damage(rng, directory, plan):
    """Damage one file; return it and what was done."""
    pattern, hows, sealed = plan
    file, how = pick(rng, files_of(directory, pattern)), pick(rng, hows)
    made = json.loads((directory / manifest.NAME).read_text())
    how(rng, file)
    if sealed:
        manifest.write(directory, kind="blocks", config=made["config"], counts=made["counts"])
    return file, how.__name__


def check(seed, dataset, expected, directory):
    """Damage a copy; return what was done and whether it was refused."""
    rng = np.random.default_rng(seed)
    copy = shutil.copytree(dataset, directory / f"seed-{seed}")
    plan = PLANS[seed % len(PLANS)]
    (file, how), sealed = damage(rng, copy, plan), plan[-1]
    said = f"seed {seed}: {how} {file.relative_to(copy)}{' sealed' if sealed else ''}"
    # A file put in another's place is named by whichever is read first; a lost manifest leaves only the directory to name.
    where = copy if sealed or file.name == manifest.NAME else file.parent if how in ("stray", "swap") else file
    refused = False
    try:
        for split in columns.SPLITS:
            try:
                found = blocks.load(copy, split, history_len=3, verify=bool(rng.random() < 0.5)).columns()
            except InputError as error:
                refused = True
                text = str(error)
                assert "\n" not in text and len(text) < 1000, said
                assert text.startswith(str(where)), f"{said}: {text}"
            except Exception as error:
                raise AssertionError(said) from error
            else:
                assert found.spec == expected[split].spec, said
                for array in ARRAYS:
                    np.testing.assert_array_equal(
                        getattr(found, array), getattr(expected[split], array), err_msg=f"{said}: {array}"
                    )
    finally:
        shutil.rmtree(copy)
    return how, refused


def check_many(seeds, dataset, expected, directory):
    outcomes = [check(seed, dataset, expected, directory) for seed in seeds]
    assert sum(refused for _, refused in outcomes) > 0.5 * len(outcomes)  # most damage is no padding
    return outcomes


def test_a_damaged_directory_is_refused_or_reads_as_before(dataset, expected, tmp_path):
    check_many(range(8 * len(PLANS)), dataset, expected, tmp_path)


def damage_while_read(seed, dataset, expected, directory):
    """Open a copy, read part of it, damage a shard in place, read the rest; return whether that was refused."""
    rng = np.random.default_rng(seed)
    copy = shutil.copytree(dataset, directory / f"seed-{seed}")
    data = blocks.load(copy, "train", history_len=3)
    whole = expected["train"]
    order = rng.permutation(data.num_blocks).tolist()
    file, how = pick(rng, files_of(copy, "*-train.array_record-*")), pick(rng, (flip, truncate, overwrite, drop_bytes, empty))
    refused = False
    try:
        for step, block in enumerate(order):
            if step == seed % 5:
                how(rng, file)
            try:
                found = data.read([block])
            except InputError as error:
                refused = True
                assert "\n" not in str(error) and str(error).startswith(str(file)), f"seed {seed}: {error}"
            else:
                rows = data.rows_of(block)
                entries = slice(*whole.candidate_offsets[[rows.start, rows.stop]])
                for name, part in (
                    ("request_id", rows),
                    ("request_fields", rows),
                    ("candidate_fields", entries),
                    ("labels", entries),
                ):
                    np.testing.assert_array_equal(
                        getattr(found, name), getattr(whole, name)[part], err_msg=f"seed {seed}: {name}"
                    )
    finally:
        shutil.rmtree(copy)
    return refused


def test_damage_done_between_two_reads_is_noticed_or_does_no_harm(dataset, expected, tmp_path):
    assert sum(damage_while_read(seed, dataset, expected, tmp_path) for seed in range(15)) > 3


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_many_damaged_directories_are_refused_or_read_as_before(dataset, expected, tmp_path, part):
    outcomes = check_many(range(1000 + 300 * part, 1300 + 300 * part), dataset, expected, tmp_path)
    assert {how for how, _ in outcomes} == {how.__name__ for how in (*BYTES, edit_json, nest, retype)}


@pytest.mark.slow
def test_much_damage_done_between_two_reads_is_noticed_or_does_no_harm(dataset, expected, tmp_path):
    assert sum(damage_while_read(seed, dataset, expected, tmp_path) for seed in range(100, 1100)) > 200
