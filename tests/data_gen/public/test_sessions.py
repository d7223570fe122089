"""The session adapter: on sessions made by hand, on folders it cannot use, and on the three real data sets where at hand."""

import itertools
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_gen.public.adapter import SEQUENCES, convert
from data_gen.public.sessions import ADAPTER, ADAPTERS, DATASETS, TEST, TRAIN, read
from unisc.errors import InputError

REAL = Path(os.environ.get("UNISC_REAL_DATA", Path(__file__).parents[3] / ".." / "shared" / "data")) / "sessions_next_item"
SESSIONS = [[4, 2], [], [2, 2, 9]]
CASES = [([9], 4), ([4, 5], 2), ([], 2), ([2], 7)]


def write(folder: Path, name="tmall", sessions=SESSIONS, cases=CASES) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    ids = pa.list_(pa.int64())
    test = {"prefix": pa.array([p for p, _ in cases], ids), "target": pa.array([t for _, t in cases], pa.int64())}
    pq.write_table(pa.table({"items": pa.array(sessions, ids)}), folder / TRAIN.format(name))
    pq.write_table(pa.table(test), folder / TEST.format(name))
    return folder


def test_train_and_test_share_their_items(tmp_path):
    made = read(write(tmp_path))
    assert made.kind == "sequences"
    items = [2, 4, 5, 7, 9]
    rows = made.tables["sequences"].to_pylist()
    assert [[items[i] for i in row["item_ids"]] for row in rows] == [[4, 2], [2, 2, 9], [9], [4, 5], [2]]
    assert [row["target_id"] if row["target_id"] is None else items[row["target_id"]] for row in rows] == [None, None, 4, 2, 7]
    assert [row["split"] for row in rows] == ["train", "train", "test", "test", "test"]
    assert [row["sequence_id"] for row in rows] == [0, 1, 2, 3, 4]
    assert {row["user_id"] for row in rows} == {None}
    assert made.tables["items"]["item_id"].to_pylist() == [0, 1, 2, 3, 4]


def test_what_a_model_of_ids_cannot_find_is_counted(tmp_path):
    assert read(write(tmp_path)).quality == {
        "rows": {
            "tmall_train_sessions.parquet": {"in": 3, "kept": 2, "dropped": {"no item": 1}},
            "tmall_test.parquet": {"in": 4, "kept": 3, "dropped": {"no item": 1}},
        },
        "pairs of the published training set": 3,
        "source ids": {"from": 2, "to": 9, "known": 5},
        "items of no train session": 2,
        "test rows whose target no train session has": 1,
        "test rows whose prefix has an item no train session has": 1,
    }


def test_several_data_sets_of_a_folder_are_never_mixed(tmp_path):
    assert ADAPTER.read(write(tmp_path, "other")).quality["rows"].keys() == {
        "other_train_sessions.parquet",
        "other_test.parquet",
    }
    write(tmp_path, "tmall", [[1, 2]], [([1], 2)])
    with pytest.raises(InputError, match="holds other, tmall, each with its own item ids; give one as dataset"):
        ADAPTER.read(tmp_path)
    made = convert(ADAPTERS["tmall"], tmp_path, tmp_path / "made")
    assert made["counts"] == {"sequences": 2, "items": 2}
    assert pq.read_schema(tmp_path / "made" / "sequences" / "part-00000.parquet").equals(SEQUENCES.columns)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"sessions": [[1, 2], [3, -1]]}, r"tmall_train_sessions.parquet: column items holds '\[3, -1\]' in row 2, a negative"),
        ({"sessions": [[1, 2], None]}, "tmall_train_sessions.parquet: column items holds 'None' in row 2, but every row"),
        ({"sessions": [[1, None]]}, r"column items holds '\[1, None\]' in row 1, but a list may hold no nulls"),
        ({"sessions": [[]]}, "tmall_train_sessions.parquet: column items holds no item in any row"),
        ({"sessions": []}, "tmall_train_sessions.parquet: holds no rows"),
        ({"cases": [([1], 2), ([1], None)]}, "tmall_test.parquet: column target holds 'None' in row 2, but every row"),
        ({"cases": [([1], -2)]}, "tmall_test.parquet: column target holds '-2' in row 1, a negative id"),
        ({"cases": [([], 2)]}, "tmall_test.parquet: column prefix holds no item in any row"),
    ],
)
def test_unusable_folder_is_one_clear_line(tmp_path, changed, words):
    with pytest.raises(InputError, match=words) as caught:
        read(write(tmp_path, **changed))
    assert "\n" not in str(caught.value)


def test_missing_files_and_columns_are_named(tmp_path):
    with pytest.raises(InputError, match=r"\*_train_sessions\.parquet: not found"):
        read(tmp_path)
    write(tmp_path)
    pq.write_table(pa.table({"prefix": [[1]]}), tmp_path / TEST.format("tmall"))
    with pytest.raises(InputError, match=r"tmall_test\.parquet: column target is missing; give it once, as int32"):
        read(tmp_path)
    (tmp_path / TEST.format("tmall")).unlink()
    with pytest.raises(InputError, match=r"tmall_test\.parquet: not found"):
        read(tmp_path)


def markov(sequences: pa.Table) -> tuple[float, float]:
    """P@20 and MRR@20 of the items that most often followed the last one in train sessions, equals as they first did."""
    rows = sequences.to_pydict()
    followers: dict[int, dict[int, int]] = {}
    gains = []
    for items, target in zip(rows["item_ids"], rows["target_id"], strict=True):
        if target is None:
            for a, b in itertools.pairwise(items):
                counts = followers.setdefault(a, {})
                counts[b] = counts.get(b, 0) + 1
        else:
            counts = followers.get(items[-1], {})
            best = sorted(counts, key=counts.__getitem__, reverse=True)[:20]
            gains.append(1 / (1 + best.index(target)) if target in best else 0.0)
    return float(np.mean(np.array(gains) > 0)), float(np.mean(gains))


@pytest.mark.real_data
@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL}: no session benchmarks there; set UNISC_REAL_DATA to its parent")
@pytest.mark.parametrize(
    ("name", "sessions", "pairs", "cases", "items", "floor"),
    [
        ("tmall", 65_286, 351_268, 25_898, 40_727, (0.093, 0.056)),
        ("diginetica", 186_670, 719_470, 60_858, 43_097, (0.336, 0.128)),
        ("retailrocket", 126_168, 559_816, 15_132, 36_968, (0.349, 0.182)),
    ],
)
def test_real_data_sets_have_their_counts_and_known_floors(name, sessions, pairs, cases, items, floor):
    assert set(ADAPTERS) == set(DATASETS)
    made = ADAPTERS[name].read(REAL)
    assert made.quality["pairs of the published training set"] == pairs
    assert made.quality["items of no train session"] == 0, "no test item is unknown"
    assert made.quality["test rows whose target no train session has"] == 0
    assert all(not rows["dropped"] for rows in made.quality["rows"].values())
    assert len(made.tables["items"]) == items
    table = made.tables["sequences"]
    assert table["target_id"].null_count == sessions
    assert len(table) == sessions + cases
    assert markov(table) == pytest.approx(floor, abs=0.0005)
