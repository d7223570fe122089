"""The JDsearch adapter on hand-made and fuzzed files, and on the published sample where it is at hand."""

import gzip
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_gen.es3 import ES3Config, build
from data_gen.public.adapter import RANKED_LISTS, convert
from data_gen.public.jdsearch import ADAPTER, read
from unisc.data import manifest
from unisc.errors import InputError

REAL = Path(os.environ.get("UNISC_REAL_DATA", Path(__file__).parents[3] / ".." / "shared" / "data")) / "schema_samples"
HEADER = (
    "query", "candidate_wid_list", "candidate_label_list", "history_qry_list", "history_wid_list", "history_type_list",
    "history_time_list",
)  # fmt: skip
PRODUCT_HEADER = (
    "wid", "name", "brand_id", "brand_name", "cate_id_1", "cate_name_1", "cate_id_2", "cate_name_2", "cate_id_3", "cate_name_3",
    "cate_id_4", "cate_name_4", "shop_id",
)  # fmt: skip
ROWS = [
    ("7\x188", "30_10_30_20", "0.0_1.0_3.0_0.0", "-1_9_7\x188_-1", "10_50_20_10", "ORD_CLICK_FLW_CART", "0_5_40_100_1000"),
    ("9", "40", "0.0", "", "", "", "0"),
]
PRODUCTS = [
    ("10", "1\x182", "5", "x", "1", "a", "2", "b", "3", "c", "4", "d", "70"),
    ("20", "3", "5", "x", "1", "a", "2", "b", "9", "c", "4", "d", "-1"),
    ("30", "4", "6", "", "8", "a", "2", "b", "3", "c", "4", "d", "71"),
    ("10", "5", "6", "", "8", "a", "2", "b", "3", "c", "4", "d", "71"),
]


def write(folder: Path, rows=ROWS, products=PRODUCTS, header=True, names=("user_behavior_data.txt", "product_meta_data.txt")):
    folder.mkdir(parents=True, exist_ok=True)
    for name, found, head in zip(names, (rows, products), (HEADER, PRODUCT_HEADER), strict=True):
        text = "".join("\t".join(r) + "\n" for r in ([head] if header else []) + list(found))
        (folder / name).write_text(text)
    return folder


def test_lists_labels_and_histories_with_ages(tmp_path):
    made = read(write(tmp_path))
    assert made.kind == "lists"
    items = {10: 0, 20: 1, 30: 2, 40: 3, 50: 4}
    queries = {t: i for i, t in enumerate(made.tables["queries"]["text"].to_pylist())}
    assert set(queries) == {"7 8", "9"}
    first, second = made.tables["ranked_lists"].to_pylist()
    assert first == {
        "list_id": 0, "user_id": 0, "query_id": queries["7 8"],
        "item_ids": [items[30], items[10], items[20]],
        "labels": [3, 1, 0],  # the second 30 was bought
        "history_item_ids": [items[10], items[50], items[10]],
        "history_kinds": [1, 0, 2],
        "history_query_ids": [-1, queries["9"], -1],
        "history_ages": [1000, 1140, 1145],  # the follow between is left out, its time is not
        "split": "test",
    }  # fmt: skip
    assert (second["item_ids"], second["labels"], second["history_ages"]) == ([items[40]], [0], [])
    assert made.test_start is None


def test_product_features_and_accounts(tmp_path):
    made = read(write(tmp_path))
    found = made.tables["items"].to_pylist()
    assert [i["title"] for i in found] == ["1 2", "3", "4", "", ""]
    assert [i["brand_id"] for i in found] == [1, 1, 2, 0, 0]
    assert [i["shop_id"] for i in found] == [1, 0, 2, 0, 0]
    assert found[0]["category_2"] == found[1]["category_2"] != found[2]["category_2"], "equal ids under other parents differ"
    assert made.quality == {
        "rows": {
            "behaviour": {"in": 2, "kept": 2, "dropped": {}},
            "products": {"in": 4, "kept": 3, "dropped": {"repeats a wid": 1}},
            "candidates": {"in": 5, "kept": 4, "dropped": {"repeats a product of its list": 1}},
            "history": {"in": 4, "kept": 3, "dropped": {"action FLW": 1}},
        },
        "items without features": 2,
        "lists without a positive": 1,
    }


def test_header_and_names_of_the_full_release(tmp_path):
    one = read(write(tmp_path / "a"))
    other = read(write(tmp_path / "b", header=False, names=("release_data.txt", "product_data.txt")))
    assert one.tables["ranked_lists"].equals(other.tables["ranked_lists"])
    assert one.tables["items"].equals(other.tables["items"])


def test_directory_follows_the_declared_schema_and_es3_refuses_it(tmp_path):
    made = convert(ADAPTER, write(tmp_path / "source"), tmp_path / "made")
    assert made["kind"] == "lists"
    assert pq.read_schema(tmp_path / "made" / "ranked_lists" / "part-00000.parquet").equals(RANKED_LISTS.columns)
    manifest.read(tmp_path / "made", kind="lists", verify=True)
    with pytest.raises(InputError, match="holds lists, but logs are needed"):
        build(tmp_path / "made", tmp_path / "out", ES3Config(composition="exposed"), threads=1)


def bad(place, value):
    return [ROWS[1], (*ROWS[0][:place], value, *ROWS[0][place + 1 :])]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (bad(0, ""), "column query holds 'None' in row 3"),
        (bad(1, "1_2_x_4"), "column candidate_wid_list holds '1_2_x_4' in row 3, not a list of its form"),
        (bad(1, "1_2"), "column candidate_label_list holds .* in row 3, a list of another length"),
        (bad(2, "0.0_1.0_4.0_0.0"), "column candidate_label_list .* not a list of its form"),
        (bad(5, "ORD_CLICK_FLW"), "column history_type_list .* another length"),
        (bad(6, "0_5_40_100"), "column history_time_list .* another length"),
        (bad(6, "0_5_40_-1_1000"), "column history_time_list .* not a list of its form"),
        ([ROWS[0], ROWS[0][:4]], "row 3 has 4 values, not 7"),
        ([], "has a header and no rows"),
    ],
)
def test_unusable_rows_are_one_clear_line(tmp_path, rows, words):
    with pytest.raises(InputError, match=words) as caught:
        read(write(tmp_path, rows))
    assert "\n" not in str(caught.value)


def test_unusable_folders(tmp_path):
    with pytest.raises(InputError, match=r"user_behavior_data.*not found"):
        read(tmp_path)
    write(tmp_path)
    (tmp_path / "release_data.txt").write_text("x")
    with pytest.raises(InputError, match="holds the same table; remove one"):
        read(tmp_path)
    (tmp_path / "release_data.txt").unlink()
    packed = gzip.compress((tmp_path / "user_behavior_data.txt").read_bytes() * 50)
    (tmp_path / "user_behavior_data.txt").unlink()
    (tmp_path / "user_behavior_data.txt.gz").write_bytes(packed[:-9])
    with pytest.raises(InputError, match=r"user_behavior_data.txt.gz: "):
        read(tmp_path)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(place=st.integers(0, 6), value=st.text(alphabet="0123456789_.-\x18ORDCLIK汉 ", max_size=12))
def test_fuzzed_cells_end_in_one_line_or_in_sound_lists(tmp_path_factory, place, value):
    try:
        made = read(write(tmp_path_factory.mktemp("fuzz"), bad(place, value)))
    except InputError as e:
        assert "\n" not in str(e)
    else:
        for row in made.tables["ranked_lists"].to_pylist():
            assert len(row["item_ids"]) == len(row["labels"]) == len(set(row["item_ids"]))
            ages = row["history_ages"]
            assert ages == sorted(ages)
            assert len(ages) == len(row["history_item_ids"]) == len(row["history_kinds"]) == len(row["history_query_ids"])


@pytest.mark.real_data
@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL}: no schema samples there; set UNISC_REAL_DATA to their parent")
def test_real_sample():
    made = read(REAL)
    lists = made.tables["ranked_lists"].to_pylist()
    assert [len(row["item_ids"]) for row in lists] == [90, 89, 83]
    assert [sum(label > 0 for label in row["labels"]) for row in lists] == [1, 2, 2]
    assert [len(row["history_ages"]) for row in lists] == [182, 46, 2]
    assert [row["history_ages"][0] for row in lists] == [175_658, 91_016, 49_660]
    assert max(row["history_ages"][-1] for row in lists) == 30_299_133, "351 days: within the year of the source"
    assert {k: sum(row["history_kinds"].count(k) for row in lists) for k in range(3)} == {0: 62, 1: 152, 2: 16}
    assert len(made.tables["items"]) == 421
    assert made.quality["items without features"] == 12
    assert made.quality["rows"]["products"] == {"in": 409, "kept": 409, "dropped": {}}
