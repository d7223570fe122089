"""The KuaiRand adapter on generated files of the published schema; the data itself is not at hand."""

import csv
import gzip
import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_gen.es3 import ES3Config, build_all
from data_gen.public.adapter import convert
from data_gen.public.kuairand import ADAPTER, COLUMNS, NUM_TABS, RANDOM, STANDARD, USERS, VIDEOS, read
from unisc.errors import InputError

T0 = 1_650_485_801
FILES = {
    "log_standard_4_08_to_4_21_1k.csv": STANDARD,
    "log_standard_4_22_to_5_08_1k.csv": STANDARD,
    "log_random_4_22_to_5_08_1k.csv": RANDOM,
    "video_features_basic_1k.csv": VIDEOS,
    "user_features_1k.csv": USERS,
}
EARLY, LATE, RAND, VIDEO, USER = FILES
UNREAD = {
    STANDARD: ["date", "hourmin", "play_time_ms", "duration_ms", "profile_stay_time", "comment_stay_time"],
    RANDOM: ["date", "hourmin", "play_time_ms", "duration_ms", "profile_stay_time", "comment_stay_time"],
    VIDEOS: ["video_type", "upload_type", "visible_status", "video_duration", "server_width", "music_id"],
    USERS: ["user_active_degree", "is_live_streamer", "register_days_range", "onehot_feat0"],
}


def shown(user, t, video, click=0, tab=1, rand=0, ms=0, like=0):
    return {
        "user_id": user, "video_id": video, "time_ms": (T0 + t) * 1000 + ms, "is_click": click, "is_like": like,
        "is_rand": rand, "tab": tab,
    }  # fmt: skip


def video(video_id, tag="12,65", author=441, day="2020-07-08"):
    return {"video_id": video_id, "tag": tag, "author_id": author, "upload_dt": day}


def hand_made():
    return {
        EARLY: [shown(3, 0, 70, click=1, like=1), shown(3, 0, 50), shown(3, 0, 60, tab=2), shown(3, 0, 70, ms=1)],
        LATE: [shown(3, 500, 60, click=1), shown(4, 400, 50), shown(4, 400, 50, click=1)],
        RAND: [shown(4, 401, 99, click=1, rand=1, tab=0)],
        VIDEO: [video(50), video(60, tag="", author=7), video(70, tag="3", day=""), video(50, tag="9")],
        USER: [{"user_id": 3, "onehot_feat1": 2}, {"user_id": 4, "onehot_feat1": ""}],
    }


def write(folder: Path, files, zipped=False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, [*COLUMNS[FILES[name]].names, *UNREAD[FILES[name]]], restval="0")
        writer.writeheader()
        writer.writerows(rows)
        data = text.getvalue().encode()
        (folder / f"{name}.gz" if zipped else folder / name).write_bytes(gzip.compress(data) if zipped else data)
    return folder


def feed(seed=0, pages=60):
    rng = np.random.default_rng(seed)
    files = {EARLY: [], LATE: [], RAND: [], VIDEO: [video(v, tag=f"{v % 5}") for v in range(30)], USER: []}
    files[USER] = [{"user_id": u, "onehot_feat1": u % 3} for u in range(5)]
    for page in range(pages):
        who = int(rng.integers(5))
        for v in rng.permutation(30)[:5]:
            name = EARLY if page < pages // 2 else LATE
            files[name].append(shown(who, 600 * page, int(v), int(rng.random() < 0.4)))
        files[RAND].append(shown(who, 600 * page + 5, int(rng.integers(30)), int(rng.random() < 0.4), rand=1))
    return files


def rows(made, name):
    return made.tables[name].to_pylist()


def test_impressions_become_lists_and_random_ones_are_told_apart(tmp_path):
    made = read(write(tmp_path, hand_made()), test_share=0.3)
    assert made.kind == "logs"
    assert made.domains == ("rec",)
    assert [(r["user_id"], r["ts"] - T0, r["scene"], r["query_id"]) for r in rows(made, "requests")] == [
        (0, 0, 1, None), (0, 0, 1, None), (0, 0, 2, None), (1, 400, 1, None), (1, 401, NUM_TABS, None), (0, 500, 1, None),
    ]  # fmt: skip
    items = {50: 0, 60: 1, 70: 2, 99: 3}
    assert [(c["request_id"], c["item_id"], c["rank"]) for c in rows(made, "candidates")] == [
        (0, items[70], 0), (0, items[50], 1), (1, items[70], 0), (2, items[60], 0), (3, items[50], 0), (4, items[99], 0),
        (5, items[60], 0),
    ]  # fmt: skip
    assert all(c["exposed"] for c in rows(made, "candidates"))
    assert [(e["item_id"], e["request_id"], e["kind"]) for e in rows(made, "events")] == [
        (items[70], 0, "click"), (items[50], 3, "click"), (items[99], 4, "click"), (items[60], 5, "click"),
    ]  # fmt: skip
    assert made.test_start == T0 + 500
    assert not {"position", "propensity"} & set(made.tables["candidates"].column_names)


def test_features_and_rows_are_accounted_for(tmp_path):
    made = read(write(tmp_path, hand_made()), test_share=0.3)
    assert [i["attribute_ids"] for i in rows(made, "items")] == [[12, 65], [], [3], []]
    assert [i["shop_id"] for i in rows(made, "items")] == [2, 1, 2, 0]
    assert [i["created_ts"] for i in rows(made, "items")] == [1_594_137_600, 1_594_137_600, 0, 0]
    assert [u["segment"] for u in rows(made, "users")] == [1, 0]
    assert rows(made, "queries") == []
    assert made.quality["rows"] == {
        EARLY: {"in": 4, "kept": 4, "dropped": {}},
        LATE: {"in": 3, "kept": 2, "dropped": {"repeats a video of its list": 1}},
        RAND: {"in": 1, "kept": 1, "dropped": {}},
        VIDEOS: {"in": 4, "kept": 3, "dropped": {"repeats a video_id": 1}},
        USERS: {"in": 2, "kept": 2, "dropped": {}},
    }
    assert made.quality["random_exposures"] == 1
    assert made.quality["actions_left_out"]["is_like"] == 1
    assert made.quality["items without features"] == 1


def test_es3_builds_and_conserves_labels(tmp_path, check_declared):
    convert(ADAPTER, write(tmp_path / "source", feed(), zipped=True), tmp_path / "logs")
    check_declared(tmp_path / "logs")
    built = build_all(tmp_path / "logs", tmp_path / "samples", ES3Config(composition="exposed"), threads=1)
    quality = built["searchified"]["quality"]
    clicks = sum(r["is_click"] for name in (EARLY, LATE, RAND) for r in feed()[name])
    assert quality["volumes"]["exposed"]["clicks"] + quality["test"]["clicks"] == clicks
    assert quality["volumes"]["exposed"]["samples"] + quality["test"]["samples"] == 6 * 60
    assert quality["volumes"]["searchified"] == quality["volumes"]["exposed"], "one domain: nothing outside it"
    assert quality["quarantine"] == {}
    scenes = pq.read_table(tmp_path / "samples" / "exposed" / "train")["scene"].to_pylist()
    assert set(scenes) == {1, NUM_TABS + 1}


def test_gap_and_missing_random_log(tmp_path):
    files = {name: found for name, found in feed().items() if name != RAND}
    write(tmp_path, files)
    assert len(read(tmp_path).tables["requests"]) == 60
    joined = read(tmp_path, feed_gap=10**6).tables
    assert len(joined["requests"]) == 5 + 5, "one a user and log file"
    assert sum(len(files[name]) for name in (EARLY, LATE)) > len(joined["candidates"])


def bad(name, change, place=1):
    files = feed(pages=8)
    files[name][place] = {**files[name][place], **change}
    return files


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (bad(LATE, {"tab": 15}), rf"{LATE}: column tab holds '15' in row 3, not a number from 0 to 14"),
        (bad(RAND, {"is_rand": 2}), "column is_rand holds '2' in row 3"),
        (bad(EARLY, {"time_ms": T0}), "not a time of this century in milliseconds"),
        (bad(EARLY, {"is_click": "yes"}), "column is_click has invalid value 'yes' in row 3, not int64"),
        (bad(VIDEO, {"tag": "a,b"}), "column tag holds 'a,b' in row 3, not numbers joined by commas"),
        ({**feed(pages=8), EARLY: [], LATE: [], RAND: []}, "has a header and no rows"),
        ({VIDEO: [], USER: []}, r"log_standard_\*.csv: not found"),
    ],
)
def test_unusable_folder_is_one_clear_line(tmp_path, files, words):
    with pytest.raises(InputError, match=words) as caught:
        read(write(tmp_path, files))
    assert "\n" not in str(caught.value)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.data())
def test_fuzzed_cells_end_in_one_line_or_in_sound_tables(tmp_path_factory, data):
    files = feed(pages=6)
    name = data.draw(st.sampled_from(sorted(files)))
    row = data.draw(st.integers(0, len(files[name]) - 1))
    column = data.draw(st.sampled_from(COLUMNS[FILES[name]].names))
    value = data.draw(
        st.sampled_from(["", "nan", "-1", "0", "1,2", "9" * 30, "-" * 3, "2020-02-30", '"']) | st.text(max_size=6)
    )
    files[name][row] = {**files[name][row], column: value}
    try:
        made = read(write(tmp_path_factory.mktemp("fuzz"), files))
    except InputError as e:
        assert "\n" not in str(e)
        assert name in str(e)
    else:
        pairs = {(c["request_id"], c["item_id"]) for c in rows(made, "candidates")}
        assert len(pairs) == len(made.tables["candidates"])
        assert {(e["request_id"], e["item_id"]) for e in rows(made, "events")} <= pairs
        assert all(r["in"] == r["kept"] + sum(r["dropped"].values()) for r in made.quality["rows"].values())
