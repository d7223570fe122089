"""The Qilin adapter on hand-made, generated and fuzzed files, and on the published toy rows where they are at hand."""

import csv
import gzip
import io
import os
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_gen.es3 import ES3Config, build_all
from data_gen.public.adapter import convert
from data_gen.public.qilin import ADAPTER, FEED, SEARCH, read
from data_gen.public.qilin_source import parse_entries
from unisc.data.schema import LOG_TABLES
from unisc.errors import InputError

REAL = Path(os.environ.get("UNISC_REAL_DATA", Path(__file__).parents[3] / ".." / "shared" / "data")) / "schema_samples"
T0 = 1_732_475_000
NOTE_COLUMNS = ("note_title", "note_content", "taxonomy1_id", "taxonomy2_id", "taxonomy3_id", "note_idx")
USER_COLUMNS = ("gender", "platform", "age", "fans_num", "user_idx")


def result(note, t, position, click=0, like=0):
    return {
        "click": float(click), "collect": 0.0, "comment": 0.0, "like": float(like), "note_id": "6735cecc", "note_idx": note,
        "page_time": np.nan, "position": float(position), "share": 0.0, "t": t,
    }  # fmt: skip


def cell(results, form):
    """Write results as the source does: NumPy's text of an array of dictionaries."""
    unit = float if form is SEARCH else int
    return str(np.array([{form.time if k == "t" else k: unit(v) if k == "t" else v for k, v in r.items()} for r in results]))


def search(idx, user, results, query='渔歌子, "主旨"', kind="1.0"):
    details = [{**r, "t": T0 + r["t"]} for r in results]
    return {"search_idx": idx, "user_idx": user, "query": query, "query_from_type": kind, SEARCH.details: cell(details, SEARCH)}


def page(idx, user, results):
    details = [{**r, "t": (T0 + r["t"]) * 1000 + 25} for r in results]
    return {"request_idx": idx, "user_idx": user, "query": "not asked", FEED.details: cell(details, FEED)}


def note(idx, path=("a", "b", "c"), title="Titel"):
    return {"note_idx": idx, "note_title": title, **{f"taxonomy{i}_id": p for i, p in enumerate(path, 1)}}


def person(idx, gender="female", age="16-18"):
    return {"user_idx": idx, "gender": gender, "platform": "iOS", "age": age}


def hand_made():
    return {
        "search_train": [
            search(1, 70, [result(500, 9, 2), result(400, 5, 1, click=1), result(600, 9, 1)]),
            search(
                2,
                71,
                [result(500, 20, 1), result(500, 30, 1, click=1), result(400, 25, 2, click=1, like=1)],
                query="",
                kind="nan",
            ),
            search(1, 70, [result(400, 99, 1)]),
        ],
        "recommendation_train": [page(1, 70, [result(400, 50, 3, click=1)])],
        "search_test": [search(8, 70, [result(400, 5000, 1, click=1), result(600, 9000, 4)], kind="6.0")],
        "notes": [note(400), note(500, ("a", "b", "nan")), note(600, ("x", "b", "c"), title=""), note(400)],
        "user_feat": [person(70), person(99, age="")],
    }


COLUMNS = {
    **dict.fromkeys(("search_train", "search_test"), (*SEARCH.columns.names, "session_idx", "question_embedding")),
    **dict.fromkeys(("recommendation_train", "recommendation_test"), (*FEED.columns.names, "query", "session_idx")),
    "notes": NOTE_COLUMNS,
    "user_feat": USER_COLUMNS,
}


def write(folder: Path, files, end=".csv") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, found in files.items():
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, COLUMNS[name], restval="[ 1.0\n 2.0]")
        writer.writeheader()
        writer.writerows(found)
        data = text.getvalue().encode()
        (folder / f"toy_{name}{end}").write_bytes(gzip.compress(data) if end.endswith("gz") else data)
    return folder


def app(requests=60):
    rng = random.Random(0)
    files = {name: [] for name in COLUMNS}
    for i in range(requests):
        split, user = "test" if i >= 0.8 * requests else "train", rng.randrange(5)

        def shown(t, chance=0.3):
            notes = rng.sample(range(40), 8)
            return [result(n, t, k, int(rng.random() < chance)) for k, n in enumerate(notes, 1)]

        files[f"search_{split}"].append(search(i, user, shown(600 * i), query=f"wort{i % 6} mehr"))
        files[f"recommendation_{split}"].append(page(i, user, shown(600 * i + 200)))
    files["notes"] = [note(n, ("a", f"b{n % 2}", f"c{n % 4}"), title=f"wort{n % 6}") for n in range(40)]
    files["user_feat"] = [person(u) for u in range(5)]
    return files


def rows(made, name):
    return made.tables[name].to_pylist()


def test_requests_lists_and_clicks(tmp_path):
    made = read(write(tmp_path, hand_made()))
    assert made.kind == "logs"
    assert made.domains == ("search", "rec")
    users, notes = {70: 0, 71: 1, 99: 2}, {400: 0, 500: 1, 600: 2}
    assert [(r["user_id"], r["ts"] - T0, r["domain"], r["query_id"], r["scene"]) for r in rows(made, "requests")] == [
        (users[70], 5, "search", 0, 1), (users[71], 20, "search", None, None), (users[70], 50, "rec", None, None),
        (users[70], 5000, "search", 0, 6),
    ]  # fmt: skip
    assert [q["text"] for q in rows(made, "queries")] == ['渔歌子, "主旨"']
    assert [(c["request_id"], c["item_id"], c["rank"], c["position"]) for c in rows(made, "candidates")] == [
        (0, notes[400], 0, 0), (0, notes[600], 1, 0), (0, notes[500], 2, 1),
        (1, notes[500], 0, 0), (1, notes[400], 1, 1),
        (2, notes[400], 0, 2),
        (3, notes[400], 0, 0), (3, notes[600], 1, 3),
    ]  # fmt: skip
    assert [(e["item_id"], e["ts"] - T0, e["domain"], e["request_id"]) for e in rows(made, "events")] == [
        (notes[400], 5, "search", 0), (notes[400], 25, "search", 1), (notes[500], 30, "search", 1), (notes[400], 50, "rec", 2),
        (notes[400], 5000, "search", 3),
    ]  # fmt: skip
    assert made.test_start == T0 + 5000


def test_features_and_accounts(tmp_path):
    made = read(write(tmp_path, hand_made()))
    first, second, third = rows(made, "items")
    assert first["title"] == "Titel"
    assert third["title"] == ""
    assert first["category_2"] == second["category_2"] != third["category_2"], "b under a, and b under x"
    assert first["category_3"] != second["category_3"]
    segments = [u["segment"] for u in rows(made, "users")]
    assert segments[1] == 0
    assert segments[0] != segments[2]
    assert made.quality == {
        "rows": {
            "search_train": {"in": 3, "kept": 2, "dropped": {"repeats a search_idx": 1}},
            "search_test": {"in": 1, "kept": 1, "dropped": {}},
            "recommendation_train": {"in": 1, "kept": 1, "dropped": {}},
            "recommendation_test": {"in": 0, "kept": 0, "dropped": {}},
            "search entries": {"in": 8, "kept": 7, "dropped": {"repeats a note of its list": 1}},
            "rec entries": {"in": 1, "kept": 1, "dropped": {}},
            "notes": {"in": 4, "kept": 3, "dropped": {"repeats a note_idx": 1}},
            "user_feat": {"in": 2, "kept": 2, "dropped": {}},
        },
        "actions_left_out": {"like": 1},
        "lists that span more than an hour": 1,
        "requests on the other side of test_start than their file": 0,
        "test_share": None,
        "users without features": 1,
    }


def test_split_follows_the_files_and_is_not_moved_by_one_stray_list(tmp_path):
    files = app()
    stray = files["search_test"][0]
    stray[SEARCH.details] = cell([result(1, T0 - 86400, 1)], SEARCH)
    made = read(write(tmp_path, files))
    assert made.test_start == T0 + 600 * 48 + 200, (
        "the first feed page of the test files; the search before it is the stray one"
    )
    assert made.quality["requests on the other side of test_start than their file"] == 1


def test_searches_alone_are_split_by_share(tmp_path):
    made = read(write(tmp_path, {"search_train": app()["search_train"]}), test_share=0.25)
    assert sum(r["ts"] >= made.test_start for r in rows(made, "requests")) == 12
    assert made.quality["test_share"] == 0.25


def test_parquet_and_packed_csv_say_the_same(tmp_path):
    files = app()
    plain = read(write(tmp_path / "a", files))
    packed = read(write(tmp_path / "b", files, end=".csv.gz"))
    for name, found in files.items():
        form = SEARCH if name.startswith("search") else FEED
        keep = [
            {
                k: parse_entries(v, "") if k == form.details else float(v) if k == "query_from_type" else v
                for k, v in row.items()
            }
            for row in found
        ]
        (tmp_path / "c" / name).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(keep), tmp_path / "c" / name / "train-0.parquet")
    other = read(tmp_path / "c")
    for name in LOG_TABLES:
        assert plain.tables[name].equals(packed.tables[name])
        assert plain.tables[name].equals(other.tables[name])


def test_es3_builds_all_compositions_and_conserves_labels(tmp_path, check_declared):
    made = convert(ADAPTER, write(tmp_path / "source", app()), tmp_path / "logs")
    assert made["kind"] == "logs"
    check_declared(tmp_path / "logs")
    built = build_all(tmp_path / "logs", tmp_path / "samples", ES3Config(composition="exposed"), threads=1)
    quality = built["searchified"]["quality"]
    assert quality["quarantine"] == {}
    clicks = {
        d: sum(e["domain"] == d for e in pq.read_table(tmp_path / "logs" / "events").to_pylist()) for d in ("search", "rec")
    }
    volumes, test, fates = quality["volumes"], quality["test"], quality["attribution"]["click"]
    assert volumes["exposed"]["clicks"] + test["clicks"] == clicks["search"]
    assert (volumes["exposed"]["samples"], test["samples"]) == (48 * 8, 12 * 8)
    assert fates["events"] == clicks["rec"] == sum(n for name, n in fates.items() if name != "events")
    assert volumes["attributed"]["clicks"] == volumes["exposed"]["clicks"] + fates["attributed"]
    found = quality["searchification"]
    assert found["searchified"] > 0
    assert sum(found[k] for k in ("searchified", "test_period", "no_similar_negative", "no_query")) == clicks["rec"]


def with_cell(text):
    files = hand_made()
    files["search_train"][1][SEARCH.details] = text
    return files


@pytest.mark.parametrize(
    "text",
    [
        "[{'note_idx': __import__('os')}]",
        "[{'note_idx': 1} ... {'note_idx': 2}]",  # NumPy cuts lists beyond a thousand short
        "{'note_idx': 1}",
        "[1 2 3]",
        "[" * 5000,
        "[{'note_idx': 1,",
    ],
)
def test_cells_that_are_no_lists_are_named_and_never_evaluated(tmp_path, text):
    with pytest.raises(
        InputError, match=r"toy_search_train.csv: column search_result_details_with_idx in row 3 is no list"
    ) as e:
        read(write(tmp_path, with_cell(text)))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "entry",
    [
        "{'note_idx': nan, 'position': 1.0, 'search_timestamp': 1732475484.0, 'click': 1.0}",
        "{'note_idx': 5, 'position': 1.0, 'search_timestamp': nan, 'click': 1.0}",
        "{'note_idx': 5, 'position': 1.0, 'search_timestamp': 1732475484000.0, 'click': 1.0}",  # milliseconds
        "{'note_idx': 5, 'position': 1.0, 'click': 1.0}",
    ],
)
def test_unusable_entries_are_dropped_and_counted(tmp_path, entry):
    made = read(write(tmp_path, with_cell(f"[{entry}]")))
    assert made.quality["rows"]["search_train"]["dropped"]["no usable entry"] == 1
    assert made.quality["rows"]["search entries"]["dropped"]["no note_idx or no time of this century"] == 1


def test_unusable_folders_are_one_clear_line(tmp_path):
    with pytest.raises(InputError, match=r"search_train.csv: not found"):
        read(tmp_path)
    with pytest.raises(InputError, match="holds no search with a usable result"):
        read(write(tmp_path, {"search_train": []}))
    write(tmp_path, {"search_train": [{**search(1, 2, [result(1, 1, 1)]), "user_idx": "u"}]})
    with pytest.raises(InputError, match="column user_idx has invalid value 'u' in row 2, not int64"):
        read(tmp_path)
    (tmp_path / "toy_search_train.csv").write_bytes((tmp_path / "toy_search_train.csv").read_bytes()[:9])
    with pytest.raises(InputError, match="column search_idx is missing"):
        read(tmp_path)
    (tmp_path / "toy_search_train.csv").unlink()
    (tmp_path / "search_train").mkdir()
    (tmp_path / "search_train" / "0.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"0.parquet: cannot be read"):
        read(tmp_path)


@pytest.mark.parametrize("kind", ["9" * 25, "4e9", "inf", "-1", ""])
def test_a_kind_of_query_that_is_no_code_is_unknown(tmp_path, kind):
    files = hand_made()
    files["search_test"][0]["query_from_type"] = kind
    assert rows(read(write(tmp_path, files)), "requests")[-1]["scene"] is None


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_fuzzed_cells_end_in_one_line_or_in_sound_tables(tmp_path_factory, data):
    files = hand_made()
    name = data.draw(st.sampled_from(sorted(files)))
    row = data.draw(st.sampled_from(files[name]))
    column = data.draw(st.sampled_from(sorted(row)))
    odd = st.sampled_from(["", "nan", "-1", "1.5", "9" * 25, "[]", "[{}]", "\x00", "[{'note_idx': 1e400}]"]) | st.text(
        max_size=6
    )
    if column in (SEARCH.details, FEED.details):
        text = str(row[column])
        place = data.draw(st.integers(0, len(text)))
        row[column] = text[:place] + data.draw(odd) + text[place + data.draw(st.integers(0, 5)) :]
    else:
        row[column] = data.draw(odd)
    try:
        made = read(write(tmp_path_factory.mktemp("fuzz"), files), test_share=0.5)
    except InputError as e:
        assert "\n" not in str(e)
        return
    requests = rows(made, "requests")
    pairs = [(c["request_id"], c["item_id"]) for c in rows(made, "candidates")]
    assert len(pairs) == len(set(pairs))
    assert {(e["request_id"], e["item_id"]) for e in rows(made, "events")} <= set(pairs)
    assert all(e["ts"] >= requests[e["request_id"]]["ts"] for e in rows(made, "events"))
    for counts in made.quality["rows"].values():
        assert counts["in"] == counts["kept"] + sum(counts["dropped"].values())


@pytest.mark.real_data
@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL}: no schema samples there; set UNISC_REAL_DATA to their parent")
def test_real_toy_rows(tmp_path):
    made = read(REAL)
    assert {name: len(table) for name, table in made.tables.items()} == {
        "items": 688, "users": 43, "queries": 18, "requests": 40, "candidates": 690, "events": 119,
    }  # fmt: skip
    accounts = made.quality["rows"]
    assert (accounts["search entries"]["in"], accounts["rec entries"]["in"]) == (206 + 303, 77 + 115)
    assert accounts["rec entries"]["dropped"] == {"repeats a note of its list": 11}
    assert made.test_start == 1_732_706_088
    assert made.quality["requests on the other side of test_start than their file"] == 0
    assert made.quality["actions_left_out"] == {"collect": 3, "like": 13, "share": 1}
    assert min(r["ts"] for r in rows(made, "requests")) == 1_732_138_228
    convert(ADAPTER, REAL, tmp_path / "logs")
    quality = build_all(tmp_path / "logs", tmp_path / "samples", ES3Config(composition="exposed"), threads=1)["searchified"][
        "quality"
    ]
    assert quality["volumes"]["exposed"]["clicks"] == 27
    assert quality["test"]["clicks"] == 43
