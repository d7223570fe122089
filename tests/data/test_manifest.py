"""A dataset directory holds the Parquet files its manifest names and no others, wherever they lie."""

import json

import pytest

from unisc.data import manifest
from unisc.errors import InputError


@pytest.fixture
def directory(tmp_path):
    for name in ("items", "train"):
        (tmp_path / "d" / name).mkdir(parents=True)
        (tmp_path / "d" / name / "part-00000.parquet").write_bytes(name.encode())
    manifest.write(tmp_path / "d", kind="samples", config={}, counts={})
    return tmp_path / "d"


def _beside_a_shard(directory):
    (directory / "train" / "late.parquet").write_bytes(b"x")


def _in_a_folder_that_is_not_named(directory):
    (directory / "test").mkdir()
    (directory / "test" / "part-00000.parquet").write_bytes(b"x")


def _behind_a_link(directory):
    elsewhere = directory.with_name("elsewhere")
    elsewhere.mkdir()
    (elsewhere / "part-00000.parquet").write_bytes(b"x")
    (directory / "test").symlink_to(elsewhere)


@pytest.mark.parametrize("add", [_beside_a_shard, _in_a_folder_that_is_not_named, _behind_a_link])
def test_a_file_that_came_after_the_manifest_is_refused_by_name(directory, add):
    assert set(manifest.read(directory, kind="samples", verify=True)["shards"]) == {
        "items/part-00000.parquet", "train/part-00000.parquet",
    }  # fmt: skip
    add(directory)
    with pytest.raises(InputError, match=r"(train/late|test/part-00000).parquet: not named by the manifest; remove it"):
        manifest.read(directory, kind="samples")


def test_what_is_no_parquet_is_nobodys_shard(directory):
    (directory / "train" / "notes.txt").write_text("x")
    manifest.read(directory, kind="samples")


def test_a_manifest_that_names_no_shard_is_held_to_none(directory):
    about = json.loads((directory / manifest.NAME).read_text())
    (directory / manifest.NAME).write_text(json.dumps(about | {"shards": {}}))
    assert manifest.read(directory, kind="samples", verify=True)["shards"] == {}
