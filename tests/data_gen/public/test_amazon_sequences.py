"""The Amazon sequence adapter: on folders of all three shapes made by hand, on bad ones, and on the real ones where at hand."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_gen.public.adapter import convert
from data_gen.public.amazon_sequences import ABOUT_ITEMS, ADAPTER, CODES, USERS_ITEMS, leave_one_out, read
from unisc.errors import InputError

REAL = Path(os.environ.get("UNISC_REAL_DATA", Path(__file__).parents[3] / ".." / "shared" / "data"))
IDS = pa.list_(pa.int64())
SEQUENCES = {"user_id": [11, 10, 14, 13], "items": pa.array([[3, 1, 4, 1], [2, 4], [], [4, 3, 2]], IDS)}
TITLES = {"item_id": [4, 1, 2], "title": ["four", " one\n", None]}
BEAUTY = {
    "item_id": [1, 2, 3, 4],
    "asin": ["B1", "B2", "B3", "B4"],
    "llm_text_id": ["one", "two", "", "four"],
    "attribute_ids": pa.array([[7, 1], None, [3], []], IDS),
    "letter_semantic_id": pa.array([[5, 0], [5, 1], [6, 0], [5, 0]], IDS),
}
SEMANTIC = {"item_id": [9, 1, 3, 4], "codes": pa.array([[1, 2, 3], [3, 2, 1], [0, 0, 0], [3, 2, 1]], IDS)}


def write(folder: Path, sequences=SEQUENCES, items=None, codes=None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, columns in ((USERS_ITEMS, sequences), (ABOUT_ITEMS, items), (CODES, codes)):
        if columns is not None:
            pq.write_table(pa.table(columns), folder / name)
    return folder


def rows(made, name):
    return made.tables[name].to_pylist()


def test_the_last_two_items_are_left_out(tmp_path):
    made = read(write(tmp_path))
    assert made.kind == "sequences"
    found = [(r["user_id"], [i + 1 for i in r["item_ids"]], r["target_id"], r["split"]) for r in rows(made, "sequences")]
    assert found == [
        (1, [3, 1], None, "train"), (0, [2, 4], None, "train"), (2, [4], None, "train"),
        (1, [3, 1], 4 - 1, "validation"), (2, [4], 3 - 1, "validation"),
        (1, [3, 1, 4], 1 - 1, "test"), (2, [4, 3], 2 - 1, "test"),
    ]  # fmt: skip
    assert [r["sequence_id"] for r in rows(made, "sequences")] == list(range(7))
    assert made.quality == {
        "rows": {USERS_ITEMS: {"in": 4, "kept": 3, "dropped": {"no item": 1}}},
        "sequences too short to test on": 1,
        "interactions": 9,
        "source ids": {"users": {"from": 10, "to": 14, "known": 4}, "items": {"from": 1, "to": 4, "known": 4}},
        "items without a row": 4,
        "items of no sequence": 0,
    }


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.lists(st.integers(0, 9), max_size=6), min_size=1, max_size=8).filter(any))
def test_no_training_row_holds_a_target_and_all_items_return(sequences):
    flat = np.array([i for s in sequences for i in s], np.int32)
    made = leave_one_out(np.arange(len(sequences)), flat, np.array([len(s) for s in sequences]))
    items, targets, splits = (made[name].to_pylist() for name in ("item_ids", "target_id", "split"))
    by_user = {(int(u), s): (i, t) for u, s, i, t in zip(made["user_id"], splits, items, targets, strict=True)}
    assert len(by_user) == len(items)
    for user, sequence in enumerate(sequences):
        if len(sequence) < 3:
            assert by_user.get((user, "train")) == ((sequence, None) if sequence else None)
            assert (user, "test") not in by_user
        else:
            assert by_user[user, "train"] == (sequence[:-2], None)
            assert by_user[user, "validation"] == (sequence[:-2], sequence[-2])
            assert by_user[user, "test"] == (sequence[:-1], sequence[-1])


def test_titles_come_with_their_items(tmp_path):
    made = read(write(tmp_path, items=TITLES))
    assert [i["title"] for i in rows(made, "items")] == [" one\n", "", "", "four"]
    assert "attribute_ids" not in made.tables["items"].column_names
    assert "semantic_ids" not in made.tables
    assert made.quality["items without a row"] == 1


def test_beauty_gives_texts_attributes_and_codes(tmp_path):
    made = read(write(tmp_path, items=BEAUTY))
    assert [i["title"] for i in rows(made, "items")] == ["one", "two", "", "four"]
    assert [i["attribute_ids"] for i in rows(made, "items")] == [[7, 1], [], [3], []]
    assert [s["codes"] for s in rows(made, "semantic_ids")] == [[5, 0], [5, 1], [6, 0], [5, 0]]
    assert made.quality["semantic ids"] == {"levels": 2, "distinct": 3, "items without": 0}


def test_semantic_ids_of_their_own_file_are_written_by_item(tmp_path, check_declared):
    made = convert(ADAPTER, write(tmp_path / "source", codes=SEMANTIC), tmp_path / "made")
    found = pq.read_table(tmp_path / "made" / "semantic_ids" / "part-00000.parquet")
    assert found.to_pylist() == [
        {"item_id": 0, "codes": [3, 2, 1]}, {"item_id": 2, "codes": [0, 0, 0]}, {"item_id": 3, "codes": [3, 2, 1]},
        {"item_id": 4, "codes": [1, 2, 3]},
    ]  # fmt: skip
    assert made["quality"]["semantic ids"] == {"levels": 3, "distinct": 3, "items without": 1}
    assert made["quality"]["items of no sequence"] == 1
    check_declared(tmp_path / "made", made["counts"])


def sequences(*items, users=None):
    return {"user_id": users or list(range(len(items))), "items": pa.array(items, IDS)}


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"sequences": sequences([1, 2], [3, -1])}, rf"{USERS_ITEMS}: column items holds '\[3, -1\]' in row 2, a negative id"),
        ({"sequences": sequences([1], users=[-1])}, f"{USERS_ITEMS}: column user_id holds '-1' in row 1"),
        ({"sequences": sequences([1], [2], users=[5, 5])}, "column user_id holds '5' in row 2, as a row before it does"),
        ({"sequences": sequences([1], None)}, "column items holds 'None' in row 2, but every row needs a value"),
        ({"sequences": sequences([1, None])}, "in row 1, but a list may hold no nulls"),
        ({"sequences": sequences([], [])}, "column items holds no item in any row"),
        ({"sequences": {"user_id": [1]}}, "column items is missing; give it once, as lists of int32"),
        ({"sequences": {"user_id": pa.array([], pa.int32()), "items": pa.array([], IDS)}}, "holds no rows"),
        ({"items": {"item_id": [1]}}, f"{ABOUT_ITEMS}: column title is missing, and llm_text_id too; give one of them"),
        ({"items": {"title": ["a"]}}, f"{ABOUT_ITEMS}: column item_id is missing"),
        ({"items": {**TITLES, "item_id": [1, 2, 1]}}, f"{ABOUT_ITEMS}: column item_id holds '1' in row 3, as a row before"),
        ({"items": {**TITLES, "title": [1, 2, 3]}}, "column title is int64; give it as string"),
        ({"codes": {"item_id": [1, 2], "codes": [[1, 2], [1]]}}, r"column codes holds '\[1\]' in row 2, not as many codes as"),
        ({"codes": {"item_id": [1], "codes": pa.array([[]], IDS)}}, r"column codes holds '\[\]' in row 1, no codes"),
        ({"codes": {"item_id": [1], "codes": [[-1]]}}, f"{CODES}: column codes holds '\\[-1\\]' in row 1, a negative id"),
        ({"codes": SEMANTIC, "items": BEAUTY}, f"{CODES}: lies beside {ABOUT_ITEMS}, which has semantic ids, too"),
    ],
)
def test_unusable_folder_is_one_clear_line(tmp_path, files, words):
    with pytest.raises(InputError, match=words) as caught:
        read(write(tmp_path, **files))
    assert "\n" not in str(caught.value)


def test_missing_and_truncated_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"sequences\.parquet: not found"):
        read(tmp_path)
    file = write(tmp_path, items=TITLES) / ABOUT_ITEMS
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"items\.parquet: cannot be read"):
        read(tmp_path)


def popularity(table: pa.Table, k: int = 10) -> float:
    """Recall@k of the test targets, items ranked by how often they stand before them."""
    test = table.filter(pc.equal(table["split"], "test"))
    ranked = np.argsort(-np.bincount(pc.list_flatten(test["item_ids"]).to_numpy()), kind="stable")
    return float(np.isin(test["target_id"].to_numpy(), ranked[:k]).mean())


@pytest.mark.real_data
@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL}: no Amazon sequences there; set UNISC_REAL_DATA to its folder")
@pytest.mark.parametrize(
    ("name", "users", "items", "interactions", "first", "codes", "floor"),
    [
        ("amazon2014_beauty", 22_363, 12_101, 198_502, 1, 12_088, 0.0114),
        ("amazon_games_titles", 50_546, 16_859, 440_264, 0, None, 0.0121),
        ("letter_instruments", 24_772, 9_922, 206_153, 0, 9_897, None),
    ],
)
def test_real_folders_have_their_counts_and_known_floors(name, users, items, interactions, first, codes, floor):
    made = read(REAL / name)
    table, quality = made.tables["sequences"], made.quality
    assert quality["rows"][USERS_ITEMS] == {"in": users, "kept": users, "dropped": {}}
    assert (len(made.tables["users"]), len(made.tables["items"]), quality["interactions"]) == (users, items, interactions)
    assert quality["sequences too short to test on"] == 0
    counts = {v["values"]: v["counts"] for v in pc.value_counts(table["split"]).to_pylist()}
    assert counts == {"train": users, "validation": users, "test": users}
    train = table.filter(pc.equal(table["split"], "train"))
    assert len(pc.list_flatten(train["item_ids"])) == interactions - 2 * users
    assert quality["source ids"]["items"] == {"from": first, "to": first + items - 1, "known": items}
    assert quality.get("semantic ids", {}).get("distinct") == codes
    if codes:
        assert len(made.tables["semantic_ids"]) == items
        assert quality["semantic ids"]["levels"] == 4
    if floor:
        assert quality["items without a row"] == 0
        assert popularity(table) == pytest.approx(floor, abs=0.0005)
