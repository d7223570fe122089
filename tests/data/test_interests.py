"""Rows of different lengths, padded and taken; a directory of interests comes back as written, and its faults are named."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unisc.data import manifest
from unisc.data.interests import SPLITS, Examples, load
from unisc.data.ragged import Ragged
from unisc.data.text import load_tokenizer
from unisc.errors import InputError

ROWS = st.lists(st.lists(st.integers(0, 99), max_size=6), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def writer(load_file, request):
    return load_file(request.path.parent / "tiny_interests.py")


@pytest.fixture
def directory(writer, tmp_path):
    return writer.write(tmp_path / "interests")


@settings(deadline=None)
@given(ROWS, st.integers(0, 7), st.sampled_from(["first", "last"]), st.randoms(use_true_random=False))
def test_padding_is_the_loop_over_rows(lists, length, keep, rng):
    taken = np.array([rng.randrange(len(lists)) for _ in range(5)])
    padded, real = Ragged.of(lists).padded(taken, length, keep=keep)
    assert padded.shape == real.shape == (5, length) and real.dtype == bool and padded.dtype == np.int32
    for i, row in enumerate(taken):
        kept = lists[row][:length] if keep == "first" else lists[row][max(0, len(lists[row]) - length) :]
        assert padded[i].tolist() == kept + [0] * (length - len(kept))
        assert real[i].tolist() == [True] * len(kept) + [False] * (length - len(kept))


@settings(deadline=None)
@given(ROWS, st.randoms(use_true_random=False))
def test_taken_rows_are_the_rows(lists, rng):
    taken = np.array([rng.randrange(len(lists)) for _ in range(4)])
    found = Ragged.of(lists).take(taken)
    assert [found.row(i).tolist() for i in range(found.num_rows)] == [lists[i] for i in taken]
    assert found.offsets.dtype == np.int64


def test_no_rows_and_rows_without_values():
    assert Ragged.of([]).num_rows == 0 and Ragged.of([]).take(np.zeros(0, int)).num_rows == 0
    padded, real = Ragged.of([[], []]).padded(np.array([0, 1, 1]), 3, keep="last")
    assert padded.tolist() == [[0] * 3] * 3 and not real.any()


def test_a_directory_is_mapped_and_fits_together(directory):
    found = load(directory)
    assert found.catalogue.num_items == 24 and found.num_users == found.known.num_rows == 10 and found.is_ordered
    assert found.fingerprint == json.loads((directory / manifest.NAME).read_text())["fingerprint"]
    assert [getattr(found, split).num_examples for split in SPLITS] == [40, 10, 10]
    tokenizer = load_tokenizer(found.tokenizer)
    assert tokenizer.decode(found.catalogue.text.row(1)).endswith("lamp 1")
    assert len(found.catalogue.text.row(23)) == 0  # an item without text is a row without tokens
    assert tokenizer.decode(found.corpus.row(found.corpus.num_rows - 1)) == "desk"
    for array in (found.catalogue.visual, found.train.user, found.train.history.values, found.known.offsets):
        assert isinstance(array, np.memmap) and not array.flags.writeable
    np.testing.assert_array_equal(found.train.targets.lengths, 1)


def test_examples_are_taken_with_all_their_rows(directory):
    test = load(directory).test
    rows = np.array([7, 0, 7])
    some = test.take(rows)
    assert isinstance(some, Examples) and some.num_examples == 3
    for i, row in enumerate(rows):
        assert some.user[i] == test.user[row]
        for name in ("query", "history", "targets", "shown"):
            np.testing.assert_array_equal(getattr(some, name).row(i), getattr(test, name).row(row))


def test_without_vectors_or_examples_or_texts(writer, tmp_path):
    found = load(writer.write(tmp_path / "bare", visual_dim=0, num_other=0, is_ordered=False))
    assert found.catalogue.visual is None and not found.is_ordered
    assert found.test.num_examples == 0 and found.test.targets.num_rows == 0 and len(found.test.targets.values) == 0
    assert not found.train.history.lengths.any()


def test_equal_data_have_an_equal_fingerprint(writer, tmp_path):
    one, two, other = (writer.write(tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert load(one).fingerprint == load(two).fingerprint != load(other).fingerprint


def _replace(directory, name, array, **options):
    """Put another array in place and say so in the manifest, which would notice otherwise."""
    np.save(directory / f"{name}.npy", array, **options)
    about = json.loads((directory / manifest.NAME).read_text())
    about["shards"][f"{name}.npy"]["bytes"] = (directory / f"{name}.npy").stat().st_size
    (directory / manifest.NAME).write_text(json.dumps(about))


@pytest.mark.parametrize(
    "name, array, said",
    [
        ("catalogue/item_id", np.arange(24, dtype=np.float32), "float32 of 24, not int64 of any rows"),
        ("catalogue/brand", np.zeros(5, np.int32), "int32 of 5, not int32 of 24 rows"),
        ("catalogue/visual", np.zeros(24, np.float32), "float32 of 24, not float32 of 24 rows"),
        ("train/user", np.full(40, 10, np.int32), "holds 10 to 10, not numbers from 0 and below 10"),
        ("train/targets_values", np.full(40, 24, np.int32), "holds 24 to 24, not numbers from 0 and below 24"),
        ("test/history_offsets", np.arange(11) * 1000, "not the bounds of its values"),
        ("test/targets_offsets", np.append(np.zeros(10, np.int64), 15), "an example has no target"),
        ("train/targets_offsets", np.append(np.arange(40), 40)[[0, 2, *range(2, 41)]], "has 2 targets|no target"),
        ("known/rows_offsets", np.zeros(3, np.int64), "int64 of 3, not int64 of 11 rows"),
    ],
)
def test_arrays_that_do_not_fit_are_named(directory, name, array, said):
    _replace(directory, name, array)
    with pytest.raises(InputError, match=f"{name.split('/')[0]}.*{said}.*again") as e:
        load(directory)
    assert "\n" not in str(e.value)


def test_an_array_of_python_objects_is_refused(directory):
    _replace(directory, "train/user", np.array([{}] * 40), allow_pickle=True)
    with pytest.raises(InputError, match=r"train/user.npy: not an array"):
        load(directory)


def test_a_file_cut_short_or_missing_is_named(directory):
    file = directory / "corpus/rows_values.npy"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(InputError, match=r"rows_values.npy: does not match"):
        load(directory)
    file.unlink()
    with pytest.raises(InputError, match=r"rows_values.npy: named by the manifest but missing"):
        load(directory)


def test_other_directories_are_refused(tiny, tmp_path):
    samples = tiny.write_samples(tmp_path / "samples", train=tiny.random_requests(3, seed=0), test=[])
    with pytest.raises(InputError, match="holds samples, but interests are needed here"):
        load(samples)
    with pytest.raises(InputError, match=r"no manifest.json"):
        load(tmp_path / "nothing")
