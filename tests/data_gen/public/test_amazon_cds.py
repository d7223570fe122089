"""The Amazon CDs adapter: on pairs made by hand, on folders it cannot use, and on the real split where it is at hand."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from data_gen.public.adapter import INTERACTIONS, convert
from data_gen.public.amazon_cds import ADAPTER, COLUMNS, PAIRS, read
from unisc.errors import InputError

REAL = Path(os.environ.get("UNISC_REAL_DATA", Path(__file__).parents[3] / ".." / "shared" / "data")) / "amazon_cds_m1"
ROWS = [
    (0, 7, "train"), (0, 3, "train"), (2, 3, "train"), (0, 7, "train"), (2, 9, "test"), (0, 3, "test"), (5, 3, "test"),
    (5, 3, "test"),
]  # fmt: skip


def write(folder: Path, rows, *, without=()) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    columns = {name: [row[i] for row in rows] for i, name in enumerate(COLUMNS[PAIRS].names)}
    pq.write_table(pa.table(columns).drop_columns(list(without)), folder / PAIRS)
    return folder


def test_pairs_keep_their_split_and_order(tmp_path):
    made = read(write(tmp_path, ROWS))
    assert made.kind == "sequences"
    assert [tuple(row.values()) for row in made.tables["interactions"].to_pylist()] == [
        (0, 1, "train"), (0, 0, "train"), (1, 0, "train"), (1, 2, "test"), (0, 0, "test"), (2, 0, "test"),
    ]  # fmt: skip
    assert made.tables["items"]["item_id"].to_pylist() == [0, 1, 2]
    assert made.tables["users"]["user_id"].to_pylist() == [0, 1, 2]


def test_repeats_leaks_and_unknowns_are_counted(tmp_path):
    assert read(write(tmp_path, ROWS)).quality == {
        "rows": {PAIRS: {"in": 8, "kept": 6, "dropped": {"repeats a pair of its split": 2}}},
        "splits": {"train": 3, "test": 3},
        "test pairs that train holds": 1,
        "test pairs whose user train lacks": 1,
        "test pairs whose item train lacks": 1,
    }


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([*ROWS, (1, -4, "test")], "column item holds '-4' in row 9, a negative id"),
        ([*ROWS, (None, 4, "test")], "column user holds 'None' in row 9, but every row needs a value"),
        ([*ROWS, (2**31, 4, "test")], "column user holds '2147483648' in row 9, which does not fit int32"),
        ([*ROWS, (1, 4, "valid")], "column split holds 'valid' in row 9, none of train, test"),
        (ROWS[:4], "column split has no test row"),
        (ROWS[4:], "column split has no train row"),
        ([("a", 4, "test")], "column user is string; give it as int32"),
    ],
)
def test_unusable_folder_is_one_clear_line(tmp_path, rows, words):
    with pytest.raises(InputError, match=words) as caught:
        read(write(tmp_path, rows))
    assert PAIRS in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_column_and_file_are_named(tmp_path):
    with pytest.raises(InputError, match=r"interactions\.parquet: not found"):
        read(tmp_path)
    with pytest.raises(InputError, match="column split is missing"):
        read(write(tmp_path, ROWS, without=["split"]))


def popularity(pairs: pa.Table, k: int = 20) -> tuple[float, float]:
    """Mean Recall@k and NDCG@k over the test users, items ranked by their train pairs, a user's own train items left out."""
    by_split = {s: pairs.filter(pc.equal(pairs["split"], s)) for s in ("train", "test")}
    held = {}
    for name, rows in by_split.items():
        users, items = rows["user_id"].to_numpy(), rows["item_id"].to_numpy()
        order = np.argsort(users, kind="stable")
        held[name] = np.split(items[order], np.searchsorted(users[order], np.arange(1, users.max() + 1)))
    ranked = np.argsort(-np.bincount(by_split["train"]["item_id"].to_numpy()), kind="stable")
    gains = 1 / np.log2(np.arange(k) + 2)
    recall, ndcg = [], []
    for train, test in zip(held["train"], held["test"], strict=True):
        top = ranked[: k + len(train)]
        hit = np.isin(top[~np.isin(top, train)][:k], test)
        recall.append(hit.sum() / len(test))
        ndcg.append(gains[hit].sum() / gains[: min(k, len(test))].sum())
    return float(np.mean(recall)), float(np.mean(ndcg))


@pytest.mark.real_data
@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL}: no Amazon CDs there; set UNISC_REAL_DATA to its parent")
def test_real_split_has_its_counts_and_its_known_floor(tmp_path):
    made = convert(ADAPTER, REAL, tmp_path / "made")
    assert made["quality"]["rows"][PAIRS] == {"in": 777_426, "kept": 777_426, "dropped": {}}
    assert made["quality"]["splits"] == {"train": 604_475, "test": 172_951}
    assert made["counts"] == {"interactions": 777_426, "items": 35_648, "users": 43_169}
    pairs = pq.read_table(tmp_path / "made" / "interactions" / "part-00000.parquet")
    assert pairs.schema.equals(INTERACTIONS.columns)
    recall, ndcg = popularity(pairs)
    assert (recall, ndcg) == pytest.approx((0.0122, 0.0072), abs=0.0001)
