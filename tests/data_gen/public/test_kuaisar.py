"""The KuaiSAR adapter on generated files of the published schema; the data itself is not at hand."""

import csv
import gzip
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_gen.es3 import ES3Config, build, build_all
from data_gen.public.adapter import convert
from data_gen.public.kuaisar import ADAPTER, COLUMNS, read
from unisc.data.schema import LOG_TABLES
from unisc.errors import InputError

T0 = 1_684_763_932  # seconds; the files have milliseconds
# Columns the published schema has and the adapter does not read.
UNREAD = {
    "src_inter.csv": ["search_session_time"],
    "rec_inter.csv": ["playing_time", "duration_ms", "time", "search_item_related"],
    "item_features.csv": ["item_type", "upload_type", "first_level_category_name", "fourth_level_category_id"],
    "user_features.csv": ["search_active_level", "rec_active_level"],
}


def search(user, session, t, item, clicks=0, keyword="[20, 34, 3]", source="USER_INPUT", kind="VIDEO"):
    return {
        "user_id": user, "search_session_id": session, "search_session_timestamp": (T0 + t) * 1000, "keyword": keyword,
        "search_source": source, "item_id": item, "click_cnt": clicks, "item_type": kind,
    }  # fmt: skip


def shown(user, t, item, click=0, ms=0, like=0):
    return {
        "user_id": user, "item_id": item, "timestamp": float((T0 + t) * 1000 + ms), "click": click, "forward": 0, "like": like,
        "follow": 0, "search": 0,
    }  # fmt: skip


def item(item_id, categories=(9, 136, 0), caption="[1, 213, 24]", author=10, day="2023-04-22"):
    names = ("first", "second", "third")
    levels = {f"{n}_level_category_id": c for n, c in zip(names, categories, strict=True)}
    return {"item_id": item_id, "caption": caption, "author_id": author, "upload_time": day, **levels}


def user(user_id, one=1, two=3):
    return {"user_id": user_id, "onehot_feat1": one, "onehot_feat2": two}


def hand_made():
    return {
        "src_inter.csv": [
            search(7, 1, 0, 500, clicks=2),
            search(7, 1, 0, 400),
            search(8, 1, 10, 400, keyword="[5]", source="LIVE_SEARCH", kind="LIVE"),
            search(7, 1, 0, 500, clicks=1),  # shown twice in one search
            search(7, 2, 900, 300, clicks=1, keyword="[]"),
            search(8, 3, 1000, 999, clicks=1),  # an item without features
        ],
        "rec_inter.csv": [
            shown(7, 50, 300, click=1, ms=10, like=1),
            shown(7, 50, 400, ms=10),
            shown(7, 50, 500, ms=11),
            shown(9, 20, 400),
            shown(7, 50, 300, ms=10),  # the same video twice at one time
        ],
        "item_features.csv": [
            item(300, (9, 136, 5), caption="[1]"),
            item(400, (9, 136, 0)),
            item(500, (8, 0, 0), author=0, day="1970-1-1"),
            item(300, (1, 1, 1)),
        ],
        "user_features.csv": [user(7), user(8, 0, 0), user(11, None, 2)],
    }


def write(folder: Path, files, zipped=False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        columns = [*COLUMNS[name].names, *UNREAD[name]]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, restval="0")
        writer.writeheader()
        writer.writerows(rows)
        data = text.getvalue().encode()
        (folder / f"{name}.gz" if zipped else folder / name).write_bytes(gzip.compress(data) if zipped else data)
    return folder


def shop(seed=0, searches=60):
    """A few users who search, look at the feed (several videos a page) and click."""
    rng = np.random.default_rng(seed)
    items = [item(i, (i % 3 + 1, i % 6 + 1, i % 12 + 1), caption=f"[{i % 6}, {i}]") for i in range(100, 140)]
    files = {
        "src_inter.csv": [],
        "rec_inter.csv": [],
        "item_features.csv": items,
        "user_features.csv": [user(u) for u in range(5)],
    }
    for s in range(searches):
        who, topic, t = int(rng.integers(5)), int(rng.integers(6)), 1000 * s
        for i in rng.permutation(np.arange(100, 140))[:6]:
            clicks = int(rng.random() < 0.3)
            files["src_inter.csv"].append(search(who, s, t, int(i), clicks, keyword=f"[{topic}]"))
        for i in rng.permutation(np.arange(100, 140))[:8]:
            files["rec_inter.csv"].append(shown(who, t + 300, int(i), int(rng.random() < 0.3)))
    return files


def rows(tables, name):
    return tables[name].to_pylist()


def test_searches_and_feed_become_lists(tmp_path):
    made = read(write(tmp_path, hand_made()), test_share=0.4)
    assert made.kind == "logs"
    assert made.domains == ("search", "rec")
    users, items = {7: 0, 8: 1, 9: 2, 11: 3}, {300: 0, 400: 1, 500: 2, 999: 3}
    assert [(r["user_id"], r["ts"] - T0, r["domain"], r["query_id"], r["scene"]) for r in rows(made.tables, "requests")] == [
        (users[7], 0, "search", 0, 2),
        (users[8], 10, "search", 1, 1),
        (users[9], 20, "rec", None, None),
        (users[7], 50, "rec", None, None),  # two videos of one millisecond
        (users[7], 50, "rec", None, None),  # and one of the next
        (users[7], 900, "search", None, 2),
        (users[8], 1000, "search", 0, 2),
    ]
    assert [q["text"] for q in rows(made.tables, "queries")] == ["20 34 3", "5"]
    assert [(c["request_id"], c["item_id"], c["rank"], c["exposed"]) for c in rows(made.tables, "candidates")] == [
        (0, items[500], 0, True), (0, items[400], 1, True), (1, items[400], 0, True), (2, items[400], 0, True),
        (3, items[300], 0, True), (3, items[400], 1, True), (4, items[500], 0, True), (5, items[300], 0, True),
        (6, items[999], 0, True),
    ]  # fmt: skip
    assert "position" not in made.tables["candidates"].column_names, "the source states no slot"
    assert [(e["item_id"], e["ts"] - T0, e["domain"], e["request_id"]) for e in rows(made.tables, "events")] == [
        (items[500], 0, "search", 0), (items[500], 0, "search", 0), (items[300], 50, "rec", 3), (items[300], 900, "search", 5),
        (items[999], 1000, "search", 6),
    ]  # fmt: skip
    assert made.test_start == T0 + 1000, "the last 0.4 of four searches, rounded down"
    assert made.end_ts == T0 + 1001


def test_features_are_coded_and_unknown_ones_are_zero(tmp_path):
    made = read(write(tmp_path, hand_made()), test_share=0.4)
    found = rows(made.tables, "items")
    assert [i["title"] for i in found] == ["1", "1 213 24", "1 213 24", ""]
    assert found[0]["category_1"] == found[1]["category_1"] != found[2]["category_1"]
    assert found[0]["category_2"] == found[1]["category_2"] != found[2]["category_2"], "an empty level below another category"
    assert found[0]["category_3"] != found[1]["category_3"]
    assert [i["shop_id"] for i in found] == [1, 1, 0, 0]
    day = 1_682_092_800  # 2023-04-22 in Beijing
    assert [i["created_ts"] for i in found] == [day, day, 0, 0]
    assert {k: found[3][k] for k in ("category_1", "category_2", "category_3")} == dict.fromkeys(
        ("category_1", "category_2", "category_3"), 0
    )
    segments = [u["segment"] for u in rows(made.tables, "users")]
    assert segments[2] == 0, "user 9 has no features"
    assert len(set(segments)) == 4


def test_every_row_is_accounted_for(tmp_path):
    quality = read(write(tmp_path, hand_made()), test_share=0.4).quality
    assert quality["rows"] == {
        "src_inter.csv": {"in": 6, "kept": 5, "dropped": {"repeats an item of its search": 1}},
        "rec_inter.csv": {"in": 5, "kept": 4, "dropped": {"repeats an item of its list": 1}},
        "item_features.csv": {"in": 4, "kept": 3, "dropped": {"repeats an item_id": 1}},
        "user_features.csv": {"in": 3, "kept": 3, "dropped": {}},
    }
    assert quality["actions_left_out"] == {"forward": 0, "like": 1, "follow": 0, "search": 0}
    assert quality["items seen with several item_types"] == 1
    assert quality["items without features"] == quality["users without features"] == 1


def test_a_gap_joins_what_the_feed_showed_in_a_row(tmp_path):
    write(tmp_path, hand_made())
    joined = read(tmp_path, test_share=0.4, feed_gap=1).tables
    feed = {r["request_id"] for r in rows(joined, "requests") if r["domain"] == "rec"}
    assert sorted(sum(c["request_id"] == r for c in rows(joined, "candidates")) for r in feed) == [1, 3]


def test_order_of_rows_and_compression_change_nothing_but_ranks(tmp_path):
    files = shop()
    plain = read(write(tmp_path / "plain", files))
    packed = read(write(tmp_path / "packed", files, zipped=True))
    assert all(plain.tables[name].equals(packed.tables[name]) for name in LOG_TABLES)
    turned = {name: list(reversed(found)) for name, found in files.items()}
    other = read(write(tmp_path / "turned", turned))
    for name in ("requests", "users", "items", "queries"):
        assert plain.tables[name].equals(other.tables[name])
    pairs = [{(c["request_id"], c["item_id"]) for c in rows(t.tables, "candidates")} for t in (plain, other)]
    assert pairs[0] == pairs[1]


def test_es3_builds_all_compositions_and_conserves_labels(tmp_path, check_declared):
    made = convert(ADAPTER, write(tmp_path / "source", shop()), tmp_path / "logs")
    assert made["kind"] == "logs"
    check_declared(tmp_path / "logs")
    built = build_all(tmp_path / "logs", tmp_path / "samples", ES3Config(composition="exposed"), threads=1)
    quality = built["searchified"]["quality"]
    assert quality["quarantine"] == {}
    volumes, test = quality["volumes"], quality["test"]
    clicks = sum(r["click_cnt"] for r in shop()["src_inter.csv"])
    assert volumes["exposed"]["clicks"] + test["clicks"] == clicks
    assert volumes["exposed"]["samples"] + test["samples"] == 6 * 60
    assert volumes["unexposed"] == volumes["exposed"], "no unexposed candidates exist"
    fates = quality["attribution"]["click"]
    assert (
        fates["events"] == sum(r["click"] for r in shop()["rec_inter.csv"]) == sum(n for k, n in fates.items() if k != "events")
    )
    assert fates["attributed"] > 0
    assert quality["searchification"]["searchified"] > 0
    assert volumes["attributed"]["clicks"] == volumes["exposed"]["clicks"] + fates["attributed"]


def bad(name, change, place=1):
    files = shop(searches=12)
    files[name][place] = {**files[name][place], **change}
    return files


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (bad("src_inter.csv", {"user_id": "x"}), r"src_inter.csv: column user_id has invalid value 'x' in row 3, not int64"),
        (bad("src_inter.csv", {"item_id": ""}), r"column item_id holds 'None' in row 3, but every row needs a value"),
        (bad("src_inter.csv", {"search_session_timestamp": 1684763932}), r"not a time of this century in milliseconds"),
        (bad("rec_inter.csv", {"timestamp": "-5"}), r"rec_inter.csv: column timestamp holds '-5.0' in row 3"),
        (bad("rec_inter.csv", {"timestamp": "inf"}), r"column timestamp holds 'inf' in row 3"),
        (bad("src_inter.csv", {"keyword": "__import__('os')"}), r"column keyword holds .* in row 3, not a bracketed list"),
        (bad("item_features.csv", {"upload_time": "yesterday"}), r"'yesterday' in row 3, not a day"),
        ({**shop(searches=12), "src_inter.csv": []}, "has a header and no rows"),
    ],
)
def test_unusable_rows_are_one_clear_line(tmp_path, files, words):
    with pytest.raises(InputError, match=words) as caught:
        read(write(tmp_path, files))
    assert "\n" not in str(caught.value)


def test_unusable_files_are_one_clear_line(tmp_path):
    def failing(change):
        folder = write(tmp_path / str(len(list(tmp_path.iterdir()))), shop(searches=12))
        change(folder)
        with pytest.raises(InputError) as caught:
            read(folder)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "rec_inter.csv: not found" in failing(lambda f: (f / "rec_inter.csv").unlink())
    assert "is empty" in failing(lambda f: (f / "src_inter.csv").write_text(""))

    def cut(folder):
        data = gzip.compress((folder / "src_inter.csv").read_bytes())
        (folder / "src_inter.csv").unlink()
        (folder / "src_inter.csv.gz").write_bytes(data[:-40])

    assert "src_inter.csv.gz: " in failing(cut)
    assert "uncompressed form" in failing(lambda f: (f / "src_inter.csv.gz").write_bytes(b""))

    def lose(folder):
        text = (folder / "user_features.csv").read_text()
        (folder / "user_features.csv").write_text(text.replace("onehot_feat2", "other"))

    assert "column onehot_feat2 is missing" in failing(lose)

    def append(text):
        return lambda f: (f / "src_inter.csv").write_bytes((f / "src_inter.csv").read_bytes() + text)

    assert "row 74 has 2 values, not 9" in failing(append(b"1,2\n"))
    assert "invalid UTF8 data in row 74" in failing(append(b'1,2,1684763932000,"[1]",\xff\xfe,3,0,VIDEO,0\n'))


@pytest.mark.parametrize(
    ("searches", "options", "words"),
    [
        (12, {"test_share": 0}, "test_share 0: is no share"),
        (1, {"test_share": 0.5}, "leaves no request of 1 in the train split"),
        (12, {"feed_gap": -1}, "feed_gap -1: is negative"),
    ],
)
def test_options_out_of_range(tmp_path, searches, options, words):
    with pytest.raises(InputError, match=words):
        read(write(tmp_path, shop(searches=searches)), **options)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.data())
def test_fuzzed_cells_end_in_one_line_or_in_sound_tables(tmp_path_factory, data):
    files = shop(searches=6)
    name = data.draw(st.sampled_from(sorted(files)))
    row = data.draw(st.integers(0, len(files[name]) - 1))
    column = data.draw(st.sampled_from(COLUMNS[name].names))
    value = data.draw(
        st.sampled_from(["", "nan", "-1", "0", "9" * 30, "1e400", "[1,", "\x00", '"', "汉\n字", "2023-99-99"])
        | st.text(max_size=6)
    )
    files[name][row] = {**files[name][row], column: value}
    try:
        made = read(write(tmp_path_factory.mktemp("fuzz"), files))
    except InputError as e:
        assert "\n" not in str(e)
        assert name in str(e)
    else:
        check_sound(made)


def check_sound(made):
    """Ids dense, references resolved, every row accounted for."""
    t = made.tables
    for name, key in (("items", "item_id"), ("users", "user_id"), ("queries", "query_id"), ("requests", "request_id")):
        assert t[name][key].to_pylist() == list(range(len(t[name])))
    requests = t["requests"].to_pylist()
    pairs = [(c["request_id"], c["item_id"]) for c in t["candidates"].to_pylist()]
    assert len(pairs) == len(set(pairs))
    assert all(r < len(requests) and i < len(t["items"]) for r, i in pairs)
    for e in t["events"].to_pylist():
        assert e["ts"] >= requests[e["request_id"]]["ts"]
        assert e["user_id"] == requests[e["request_id"]]["user_id"]
        assert (e["request_id"], e["item_id"]) in set(pairs)
    for counts in made.quality["rows"].values():
        assert counts["in"] == counts["kept"] + sum(counts["dropped"].values())


def test_a_build_without_clicks_in_a_split_says_so(tmp_path):
    files = shop()
    files["src_inter.csv"] = [{**r, "click_cnt": 0} for r in files["src_inter.csv"]]
    convert(ADAPTER, write(tmp_path / "source", files), tmp_path / "logs")
    with pytest.raises(InputError, match="has no positives"):
        build(tmp_path / "logs", tmp_path / "out", ES3Config(composition="exposed"), threads=1)
