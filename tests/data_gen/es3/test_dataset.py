"""ES3 samples as a TFDS dataset: the library alone reads every value in the samples' order; the bytes are always the same."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds

from data_gen.es3 import ES3Config, build
from data_gen.es3.__main__ import main
from data_gen.es3.dataset import write_dataset
from unisc.data import blocks, columns, manifest
from unisc.data.schema import SAMPLES
from unisc.errors import InputError

LISTS = {f.name for f in SAMPLES if pa.types.is_list(f.type)}


@pytest.fixture(scope="module")
def samples(make_shop, tmp_path_factory):
    """A small searchified build, with queries, feeds and purchases."""
    shop, root = make_shop(), tmp_path_factory.mktemp("es3")
    for i in range(12):
        shop.item(i, categories=(0, 0, i % 3), brand=i % 2, title=f"thing {i}")
    query = shop.query("thing", category_3=1)
    for day in (1, 3, 10):
        for user in range(7):
            ts = day * 86400 + 997 * user
            shown, feed = [(user + k) % 12 for k in range(4)], [(user + k) % 12 for k in range(5, 9)]
            search = shop.request(user, ts, shown, hidden=[(user + 9) % 12], query=query)
            shop.event(user, shown[1], ts + 5, request=search)
            recommended = shop.request(user, ts + 600, feed, domain="rec")
            shop.event(user, feed[0], ts + 630, domain="rec", request=recommended)
            shop.event(user, feed[0], ts + 900, domain="rec", kind="purchase")
    build(shop.write(root / "logs"), root / "samples", ES3Config(composition="searchified", seed=0))
    return root / "samples"


@pytest.fixture(scope="module")
def dataset(samples, tmp_path_factory):
    out = tmp_path_factory.mktemp("dataset") / "out"
    return out, write_dataset(samples, out, requests_per_block=4, num_shards=2)


@pytest.mark.parametrize("split", columns.SPLITS)
def test_the_library_alone_reads_every_value_in_the_samples_order(samples, dataset, split):
    table = pq.read_table(samples / split).combine_chunks()
    builder = tfds.builder_from_directory(dataset[0])
    names = builder.info.metadata["names"]
    source = builder.as_data_source(split)
    assert len(source) == -(-len(table) // 4) > 1
    for f in SAMPLES:
        found = np.concatenate([block[f.name] for block in source])
        column = table[f.name].combine_chunks()
        if f.name in LISTS:
            first = "history_item_id" if f.name.startswith("history_") else "item_id"
            lengths = np.concatenate([block[f"{first}_lengths"] for block in source])
            np.testing.assert_array_equal(lengths, column.value_lengths())
            column = column.flatten()
        if f.name in names:
            found = [names[f.name][code] for code in found]
            assert found == column.to_pylist()
        else:
            expected = column.fill_null(-1) if pa.types.is_integer(column.type) else column
            np.testing.assert_array_equal(found, expected.to_numpy(zero_copy_only=False))
            assert found.dtype == column.type.to_pandas_dtype()


def test_the_dataset_says_what_it_was_made_from(samples, dataset):
    out, made = dataset
    source = manifest.read(samples, kind="samples")
    assert manifest.read(out, kind="blocks", verify=True) == made
    for name in ("domains", "composition"):
        assert made["config"][name] == source[name]
    assert made["config"]["samples"] == source["fingerprint"]
    assert made["test_start"] == source["test_start"]
    for split in columns.SPLITS:
        table = pq.read_table(samples / split)
        assert made["counts"][f"{split}_requests"] == len(table)
        assert made["counts"][f"{split}_candidates"] == len(table["item_id"].combine_chunks().flatten())
        assert made["counts"][f"{split}_click"] == sum(table["click"].combine_chunks().flatten().to_pylist()) > 0
    assert str(samples.parent) not in "".join(p.read_text() for p in out.glob("*.json"))


def test_training_reads_the_same_from_the_dataset_and_from_the_samples(samples, dataset):
    for split in columns.SPLITS:
        expected = columns.load(samples, split, history_len=5)
        found = blocks.load(dataset[0], split, history_len=5)
        assert found.spec == expected.spec
        np.testing.assert_array_equal(found.columns().candidate_fields, expected.candidate_fields)
        np.testing.assert_array_equal(found.columns().candidate_numeric, expected.candidate_numeric)


WRITE = """
import sys
from pathlib import Path
from data_gen.es3.dataset import write_dataset
print(write_dataset(Path(sys.argv[1]), Path(sys.argv[2]), requests_per_block=4, num_shards=2)["fingerprint"])
assert "tensorflow" not in sys.modules
"""


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_every_process_writes_the_same_bytes_without_tensorflow(samples, dataset, tmp_path, hash_seed):
    env = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", WRITE, str(samples), str(tmp_path / "out")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [dataset[1]["fingerprint"]]
    assert done.stderr == ""


def test_the_command_writes_the_same_dataset(samples, dataset, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    monkeypatch.setattr(
        sys, "argv", ["es3", "dataset", str(samples), "--out", str(out), "--requests-per-block", "4", "--num-shards", "2"]
    )
    main()
    assert manifest.read(out, kind="blocks", verify=True) == dataset[1]
    said = capsys.readouterr().out
    assert dataset[1]["fingerprint"] in said and f"{dataset[1]['counts']['train_requests']} train requests" in said
    with pytest.raises(SystemExit, match="2"):
        main()
    assert capsys.readouterr().err.count("already exists") == 1


def test_an_output_that_is_there_is_refused_and_left_alone(samples, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("keep")
    with pytest.raises(InputError, match="out: already exists"):
        write_dataset(samples, tmp_path / "out")
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "mine"]


def test_samples_that_were_changed_since_are_refused_and_leave_nothing(samples, tmp_path):
    copy = shutil.copytree(samples, tmp_path / "copy")
    file = next((copy / "train").glob("*.parquet"))
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)
    with pytest.raises(InputError, match=r"part-00000\.parquet: does not match") as error:
        write_dataset(copy, tmp_path / "out")
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=r"no manifest\.json"):
        write_dataset(tmp_path, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["copy"]


def test_an_unfinished_dataset_is_not_seen(samples, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr(manifest, "write", fail)
    with pytest.raises(InputError, match="somewhere: No space left on device"):
        write_dataset(samples, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_reading_needs_no_library_at_import():
    code = "import sys, unisc.data.pipeline; assert not {'tensorflow_datasets', 'tensorflow', 'data_gen'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


def test_the_description_is_plain_json(dataset):
    said = json.loads((dataset[0] / "dataset_info.json").read_text())
    assert said["fileFormat"] == "array_record" and said["disableShuffling"] and said["configName"] == "searchified"
