"""Interests of sequences and of pairs without an order: what becomes an example, on tables made by hand and on real ones."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_gen.interests import InterestsConfig, build
from data_gen.interests.__main__ import main
from data_gen.interests.describe import describe
from data_gen.public import amazon_cds, amazon_sequences
from data_gen.public.adapter import convert
from unisc.data import manifest
from unisc.data.interests import SPLITS, load
from unisc.data.text import load_tokenizer
from unisc.errors import InputError

REAL = Path(os.environ.get("UNISC_REAL_DATA", Path(__file__).parents[3] / ".." / "shared" / "data"))
IDS = pa.list_(pa.int64())
SMALL = InterestsConfig(vocab_size=300, history_len=2)


@pytest.fixture(scope="module")
def sequences(tmp_path_factory):
    """Three users; item 3 has no text, items 0 and 1 share one; a user's sequence may hold an item twice."""
    folder = tmp_path_factory.mktemp("sequences")
    rows = {"user_id": [5, 6, 7], "items": pa.array([[1, 2, 3, 2, 4, 1], [4, 3], [2, 1, 4]], IDS)}
    pq.write_table(pa.table(rows), folder / "sequences.parquet")
    titles = {"item_id": [1, 2, 3, 4], "title": ["red lamp", "red lamp ", "🛋️", None]}
    pq.write_table(pa.table(titles), folder / "items.parquet")
    convert(amazon_sequences.ADAPTER, folder, folder / "converted")
    return folder / "converted"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    user, item = [0, 0, 0, 1, 1, 2, 0, 0, 2], [2, 0, 1, 3, 0, 4, 4, 3, 0]
    rows = {"user": user, "item": item, "split": ["train"] * 6 + ["test"] * 3}
    pq.write_table(pa.table(rows), folder / "interactions.parquet")
    convert(amazon_cds.ADAPTER, folder, folder / "converted")
    return folder / "converted"


def examples(rows):
    return [(int(rows.user[i]), rows.history.row(i).tolist(), rows.targets.row(i).tolist()) for i in range(rows.num_examples)]


def test_every_item_but_the_first_is_asked_for_by_those_before_it(sequences, tmp_path):
    made = build(sequences, tmp_path / "out", SMALL)
    found = load(tmp_path / "out")
    assert examples(found.train) == [(0, [0], [1]), (0, [0, 1], [2]), (0, [1, 2], [1]), (1, [3], [2])]
    assert examples(found.validation) == [(0, [2, 1], [3]), (2, [1], [0])]
    assert examples(found.test) == [(0, [1, 3], [0]), (2, [1, 0], [3])]
    assert [found.known.row(u).tolist() for u in range(3)] == [[0, 1, 2], [2, 3], [1]]
    assert found.is_ordered and not found.train.query.lengths.any() and not found.test.shown.lengths.any()
    quality = made["quality"]
    assert quality["histories cut"] == {"train": 1, "validation": 1, "test": 1}
    assert quality["items without text"] == 1 and quality["items whose title another has"] == 2
    assert quality["train rows of one item, which make no example"] == 1


def test_texts_without_spaces_around_are_the_corpus(sequences, tmp_path):
    build(sequences, tmp_path / "out", SMALL)
    found = load(tmp_path / "out")
    tokenizer = load_tokenizer(found.tokenizer)
    assert [tokenizer.decode(found.catalogue.text.row(i)) for i in range(4)] == ["red lamp", "red lamp", "🛋️", ""]
    assert [tokenizer.decode(found.corpus.row(i)) for i in range(found.corpus.num_rows)] == ["red lamp", "🛋️"]
    assert set(found.catalogue.category) == set(found.catalogue.brand) == {-1} and found.catalogue.visual is None


def test_pairs_have_no_history_and_one_test_example_a_user(pairs, tmp_path):
    made = build(pairs, tmp_path / "out", SMALL)
    found = load(tmp_path / "out")
    assert not found.is_ordered
    assert examples(found.train) == [(0, [], [2]), (0, [], [0]), (0, [], [1]), (1, [], [3]), (1, [], [0]), (2, [], [4])]
    assert examples(found.test) == [(0, [], [3, 4]), (2, [], [0])] and found.validation.num_examples == 0
    assert [found.known.row(u).tolist() for u in range(3)] == [[0, 1, 2], [0, 3], [4]]
    # Items without any text: the vocabulary is the bytes, the corpus empty.
    assert made["counts"]["vocab"] == 264 and found.corpus.num_rows == 0 and not found.catalogue.text.lengths.any()
    assert made["quality"]["items without text"] == 5


def test_pairs_held_out_are_of_no_train_example_and_not_known(pairs, tmp_path):
    build(pairs, tmp_path / "out", InterestsConfig(vocab_size=300, validation_share=0.4))
    found = load(tmp_path / "out")

    def pairs_of(rows):
        return {(u, t) for u, _, targets in examples(rows) for t in targets}

    train, held = pairs_of(found.train), pairs_of(found.validation)
    assert len(held) == 2 and len(train) == 4 and not train & held
    assert {(u, i) for u in range(3) for i in found.known.row(u).tolist()} == train


def test_the_same_source_makes_the_same_bytes_and_says_what_it_was(sequences, tmp_path):
    one, two = (build(sequences, tmp_path / name, SMALL) for name in ("a", "b"))
    assert one == two
    source = manifest.read(sequences, kind="sequences")
    made_from = {"kind": "sequences", "source": "amazon_sequences", "fingerprint": source["fingerprint"]}
    assert one["config"]["made_from"] == made_from
    assert build(sequences, tmp_path / "c", InterestsConfig(vocab_size=301))["fingerprint"] != one["fingerprint"]


def test_sessions_of_nobody_are_users_of_their_own(sequences, tmp_path):
    folder = tmp_path / "sessions"
    for name in ("sequences", "items"):
        (folder / name).mkdir(parents=True)
        table = pq.read_table(sequences / name)
        if name == "sequences":
            table = table.set_column(1, "user_id", pa.nulls(len(table), pa.int32()))
        pq.write_table(table, folder / name / "part-00000.parquet")
    said = {name: [] for name in ("gives", "cannot_give")} | dict.fromkeys(("domains", "test_start", "end_ts"))
    more = {"title": "", "homepage": "", "licence": "", "quality": {}}
    manifest.write(folder, kind="sequences", config={"source": "sessions"}, counts={}, **said, **more)
    made = build(folder, tmp_path / "out", SMALL)
    found = load(tmp_path / "out")
    assert made["quality"]["sequences of nobody known"] == found.num_users == 7
    assert len({int(u) for split in SPLITS for u in getattr(found, split).user}) == 6


def test_bad_sources_are_one_line(sequences, tmp_path, tiny, capsys, monkeypatch):
    samples = tiny.write_samples(tmp_path / "samples", train=tiny.random_requests(3, seed=0), test=[])
    with pytest.raises(InputError, match="samples: holds samples; give log tables, or a converted directory"):
        build(samples, tmp_path / "out", SMALL)
    with pytest.raises(InputError, match="vocab_size 8: "):
        build(sequences, tmp_path / "out", InterestsConfig(vocab_size=8))
    monkeypatch.setattr("sys.argv", ["interests", "build", str(tmp_path / "nothing"), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="2"):
        main()
    said = capsys.readouterr().err
    assert said.startswith("data_gen.interests: ") and said.count("\n") == 1 and not (tmp_path / "out").exists()


def test_the_command_builds_and_describes(sequences, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr("sys.argv", ["interests", "build", str(sequences), "--out", str(out), "--vocab-size", "300"])
    main()
    assert "items 4, users 3, train 4, validation 2, test 2, corpus 2" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["interests", "describe", str(out)])
    main()
    assert capsys.readouterr().out.rstrip("\n") == describe(out)
    assert "train        4 examples of 2 users" in describe(out) and "items without text: 1" in describe(out)


@pytest.mark.real_data
def test_real_beauty_leaves_the_last_two_out(tmp_path):
    if not (REAL / "amazon2014_beauty").is_dir():
        pytest.skip("no shared real data here")
    convert(amazon_sequences.ADAPTER, REAL / "amazon2014_beauty", tmp_path / "beauty")
    made = build(tmp_path / "beauty", tmp_path / "out", InterestsConfig(vocab_size=300))
    counts = {"items": 12_101, "users": 22_363, "train": 131_413, "validation": 22_363, "test": 22_363, "corpus": 12_100}
    assert made["counts"] == counts | {"vocab": 300}
    found = load(tmp_path / "out")
    # The item asked for in validation is the last of the test history.
    last = found.test.history.values[found.test.history.offsets[1:] - 1]
    np.testing.assert_array_equal(last, found.validation.targets.values)
