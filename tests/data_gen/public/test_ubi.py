"""The UBI adapter on hand-made, generated and fuzzed documents, and on the simulated sample where it is at hand."""

import gzip
import json
import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_gen.es3 import ES3Config, build_all
from data_gen.public.adapter import convert
from data_gen.public.ubi import ADAPTER, read
from unisc.data.schema import LOG_TABLES
from unisc.errors import InputError

REAL = Path(os.environ.get("UNISC_REAL_DATA", Path(__file__).parents[3] / ".." / "shared" / "data")) / "schema_samples"
T0 = 1_733_788_800  # 2024-12-10T00:00:00Z


def query(query_id, t, client="c1", text="socks", hits=None, application="shop"):
    stamp = f"2024-12-10T00:{t // 60:02}:{t % 60:02}.378Z"
    more = {} if hits is None else {"query_response_hit_ids": hits, "query_response_id": f"r-{query_id}"}
    return {
        "application": application,
        "query_id": query_id,
        "client_id": client,
        "user_query": text,
        "timestamp": stamp,
        **more,
    }


def event(action, query_id, t, item, ordinal=None, client="c1", description=None):
    about = {"object": {"object_id": item, "object_id_field": "asin", "description": description}}
    if ordinal is not None:
        about["position"] = {"ordinal": ordinal}
    return {
        "action_name": action, "query_id": query_id, "client_id": client, "timestamp": (T0 + t) * 1000 + 900,
        "event_attributes": about,
    }  # fmt: skip


DOCUMENTS = [
    query("q1", 5, text="red", hits=[]),
    query("q1", 3, text="red socks", hits=["c", "a", "b", "d"]),
    query("q2", 60, client="c2", hits=None, application="blog"),
    query("q3", 90),
    event("impression", "q1", 6, "a", 2, description="Red socks, 汉"),
    event("impression", "q1", 6, "c", 1),
    event("impression", "q1", 7, "a", 2),
    event("impression", "q1", 7, "z", 9),  # shown though no hit
    event("impression", "q2", 61, "a", 0, client="c2"),
    event("impression", "q9", 61, "a", 0),
    event("click", "q1", 8, "a", 2),
    event("click", "q1", 9, "b", 3),  # no impression of it
    event("add_to_cart", "q1", 10, "a"),
    event("purchase", "q8", 100, "x", client="c3"),
    event("click", "q3", 91, "a"),  # a query without a list
    event("click", "q2", 1, "a", client="c2"),  # before its query
    event("scroll", "q1", 6, "a"),
    event("click", "q1", 6, None),
    {"note": "neither"},
]


def write(folder: Path, documents, bulk=False, name="ubi.ndjson") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for i, document in enumerate(documents):
        lines += [json.dumps({"index": {"_index": "ubi", "_id": str(i)}})] * bulk + [
            json.dumps(document, ensure_ascii=i % 2 == 0)
        ]
    data = ("\n".join(lines) + "\n").encode()
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return folder


def shop(searches=60):
    rng = random.Random(0)
    documents = []
    for s in range(searches):
        client, items = f"c{rng.randrange(6)}", [f"i{i}" for i in rng.sample(range(30), 10)]
        documents.append(query(f"q{s}", 30 * s, client, text=f"text {s % 7}", hits=items))
        for ordinal, item in enumerate(items[:6], 1):
            documents.append(event("impression", f"q{s}", 30 * s + 1, item, ordinal, client, description=f"thing {item}"))
            for action, chance in (("click", 0.4), ("add_to_cart", 0.1), ("purchase", 0.1)):
                if rng.random() < chance:
                    documents.append(event(action, f"q{s}", 30 * s + 5, item, ordinal, client))
        documents.append(event("purchase", "lost", 30 * s + 20, rng.choice(items), client=client))
    return documents


def rows(made, name):
    return made.tables[name].to_pylist()


def test_queries_hits_impressions_and_actions(tmp_path):
    made = read(write(tmp_path, DOCUMENTS), test_share=0.5)
    assert made.kind == "logs"
    assert made.domains == ("search",)
    users, items = {"c1": 0, "c2": 1, "c3": 2}, {name: i for i, name in enumerate("abcdxz")}
    assert [(r["user_id"], r["ts"] - T0, r["query_id"], r["scene"]) for r in rows(made, "requests")] == [
        (users["c1"], 3, 0, 2),
        (users["c2"], 60, 1, 1),
    ]
    assert [q["text"] for q in rows(made, "queries")] == ["red socks", "socks"]
    assert [(c["item_id"], c["rank"], c["exposed"], c["position"]) for c in rows(made, "candidates")] == [
        (items["c"], 0, True, 0), (items["a"], 1, True, 1), (items["b"], 2, True, 2), (items["d"], 3, False, None),
        (items["z"], 4, True, 8), (items["a"], 0, True, 0),
    ]  # fmt: skip
    assert [(e["item_id"], e["ts"] - T0, e["kind"], e["request_id"]) for e in rows(made, "events")] == [
        (items["a"], 1, "click", 1), (items["a"], 8, "click", 0), (items["b"], 9, "click", 0), (items["a"], 10, "cart", 0),
        (items["a"], 91, "click", None), (items["x"], 100, "purchase", None),
    ]  # fmt: skip
    assert rows(made, "items")[0]["title"] == "Red socks, 汉"
    assert made.test_start == T0 + 60


def test_every_document_is_accounted_for(tmp_path):
    assert read(write(tmp_path, DOCUMENTS), test_share=0.5).quality == {
        "rows": {
            "queries": {"in": 4, "kept": 2, "dropped": {"further document of a query_id": 1, "no impression": 1}},
            "events": {
                "in": 14,
                "kept": 10,
                "dropped": {
                    "impression of an item its query has shown before": 1,
                    "impression of a query that is not logged": 1,
                    "action scroll": 1,
                    "click without object_id": 1,
                },
            },
            "lines that are neither": 1,
        },
        "shown by a click only": 1,
        "actions on no request": 2,
        "actions on an item their list does not hold": 0,
        "actions before their request": 1,
        "queries whose documents differ in text": 1,
        "test_share": 0.5,
    }


def test_an_action_logged_twice_within_a_second_is_one_event(tmp_path):
    again = [
        event("click", "q1", 8, "a", 2),
        event("click", "q1", 11, "a", 2),
        event("click", "q1", 8, "a", 2, client="c2"),
        event("click", "q1", 8, "c", 1),
        event("purchase", "q7", 100, "x", client="c3"),  # as little on a known query as that of q8
        event("purchase", "q1", 8, "a"),
    ]
    made = read(write(tmp_path, DOCUMENTS + again), test_share=0.5)
    told = [tuple(e.values()) for e in rows(made, "events")]
    assert len(told) == len(set(told)) == 6 + 4
    counts = made.quality["rows"]["events"]
    assert counts["dropped"] == {
        **read(write(tmp_path / "once", DOCUMENTS), test_share=0.5).quality["rows"]["events"]["dropped"],
        "click that repeats one of its second": 1,
        "purchase that repeats one of its second": 1,
    }
    assert counts["kept"] == 10 + 4


def test_bulk_exported_and_packed_files_say_the_same(tmp_path):
    plain = read(write(tmp_path / "a", shop()))
    exported = [{"_index": "ubi", "_source": d} for d in shop()]
    others = [
        write(tmp_path / "b", shop(), bulk=True),
        write(tmp_path / "c", exported, name="ubi.jsonl"),
        write(tmp_path / "d", shop(), name="ubi.ndjson.gz"),
        write(write(tmp_path / "e", shop()[:200], name="1.ndjson"), shop()[200:], name="2.ndjson"),
    ]
    for folder in others:
        other = read(folder)
        assert all(plain.tables[name].equals(other.tables[name]) for name in LOG_TABLES)


@pytest.mark.parametrize(
    "stamp",
    [
        "2024-12-10T00:01:00",
        "2024-12-10T00:01:00.999Z",
        "2024-12-10T09:01:00+0900",
        "2024-12-09T16:01:00-08:00",
        (T0 + 60) * 1000,
    ],
)
def test_times_are_read_alike_wherever_it_runs(tmp_path, monkeypatch, stamp):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        documents = [{**d, "timestamp": stamp} if d is DOCUMENTS[2] else d for d in DOCUMENTS]
        assert rows(read(write(tmp_path, documents), test_share=0.5), "requests")[1]["ts"] == T0 + 60
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_shops_own_action_names(tmp_path):
    made = read(write(tmp_path, DOCUMENTS), test_share=0.5, actions={"scroll": "click"})
    assert [(e["kind"], e["request_id"]) for e in rows(made, "events")] == [("click", 0)]


def test_es3_builds_and_conserves_labels(tmp_path, check_declared):
    made = convert(ADAPTER, write(tmp_path / "source", shop()), tmp_path / "logs")
    assert made["kind"] == "logs"
    check_declared(tmp_path / "logs")
    built = build_all(tmp_path / "logs", tmp_path / "samples", ES3Config(composition="exposed"), threads=1)
    quality = built["attributed"]["quality"]
    assert quality["quarantine"] == {}
    done = Counter((d.get("action_name"), d["query_id"] == "lost") for d in shop())
    volumes, test = quality["volumes"], quality["test"]
    assert volumes["exposed"]["clicks"] + test["clicks"] == done["click", False]
    assert volumes["exposed"]["purchases"] + test["purchases"] == done["purchase", False]
    assert volumes["exposed"]["samples"] == 54 * 6
    assert volumes["unexposed"]["samples"] == 54 * 10, "six shown and four more hits a request"
    fates = quality["attribution"]["purchase"]
    assert fates["events"] == done["purchase", True] == sum(n for name, n in fates.items() if name != "events")
    assert fates["attributed"] > 0
    assert volumes["attributed"]["purchases"] == volumes["exposed"]["purchases"] + fates["attributed"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", r"ubi.ndjson: line 2 is not JSON"),
        ("[1]", "line 2 is no JSON object"),
        ("[" * 100_000, "line 2 is not JSON"),
        ("9" * 10_000, "line 2 is not JSON"),
    ],
)
def test_unusable_lines_are_one_clear_line(tmp_path, line, words):
    (tmp_path / "ubi.ndjson").write_text(json.dumps(DOCUMENTS[0]) + "\n" + line + "\n")
    with pytest.raises(InputError, match=words) as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_unusable_files_are_one_clear_line(tmp_path):
    with pytest.raises(InputError, match=r"\*\.ndjson: not found"):
        read(tmp_path)
    write(tmp_path, [d for d in DOCUMENTS if d.get("action_name") != "impression"])
    with pytest.raises(InputError, match="no logged query has an impression"):
        read(tmp_path)
    (tmp_path / "ubi.ndjson").write_bytes(b'{"query_id": "\xff"}\n')
    with pytest.raises(InputError, match="not UTF-8"):
        read(tmp_path)
    (tmp_path / "ubi.ndjson").unlink()
    write(tmp_path, shop(), name="ubi.ndjson.gz")
    file = tmp_path / "ubi.ndjson.gz"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"ubi.ndjson.gz: cannot be read after line \d+"):
        read(tmp_path)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["object", "object_id", "ordinal"]), inner),
    max_leaves=4,
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_fuzzed_documents_end_in_sound_tables_or_one_line(tmp_path_factory, data):
    documents = [json.loads(json.dumps(d)) for d in DOCUMENTS]
    document = data.draw(st.sampled_from(documents))
    document[data.draw(st.sampled_from([*document, "query_id", "action_name"]))] = data.draw(VALUES)
    try:
        made = read(write(tmp_path_factory.mktemp("fuzz"), documents), test_share=0.5)
    except InputError as e:
        assert "\n" not in str(e)
        return
    pairs = [(c["request_id"], c["item_id"]) for c in rows(made, "candidates")]
    assert len(pairs) == len(set(pairs))
    assert all((c["position"] is None or c["position"] >= 0) for c in rows(made, "candidates"))
    for name, key in (("items", "item_id"), ("users", "user_id"), ("queries", "query_id"), ("requests", "request_id")):
        assert [r[key] for r in rows(made, name)] == list(range(len(made.tables[name])))
    for counts in ("queries", "events"):
        found = made.quality["rows"][counts]
        assert found["in"] == found["kept"] + sum(found["dropped"].values())
    assert made.quality["rows"]["queries"]["kept"] == len(made.tables["requests"])


@pytest.mark.real_data
@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL}: no schema samples there; set UNISC_REAL_DATA to their parent")
def test_simulated_sample(tmp_path):
    made = read(REAL)
    assert {name: len(table) for name, table in made.tables.items()} == {
        "items": 1091, "users": 219, "queries": 144, "requests": 256, "candidates": 2172, "events": 410,
    }  # fmt: skip
    assert sum(c["exposed"] for c in rows(made, "candidates")) == 1932 + 20
    assert Counter((e["kind"], e["request_id"] is None) for e in rows(made, "events")) == {
        ("click", False): 213, ("click", True): 16, ("cart", False): 153, ("cart", True): 22, ("purchase", True): 6,
    }  # fmt: skip
    events = made.quality["rows"]["events"]
    assert (events["in"], events["kept"]) == (3448, 1932 + 410)
    repeats = {kind: events["dropped"][f"{kind} that repeats one of its second"] for kind in ("click", "cart")}
    assert repeats == {"click": 287 - 229, "cart": 234 - 175}
    assert events["dropped"]["impression of a query that is not logged"] == 67
    convert(ADAPTER, REAL, tmp_path / "logs")
    quality = build_all(tmp_path / "logs", tmp_path / "samples", ES3Config(composition="exposed"), threads=1)["attributed"][
        "quality"
    ]
    assert quality["quarantine"] == {}
    clicked = {
        (e["request_id"], e["item_id"]) for e in rows(made, "events") if e["kind"] == "click" and e["request_id"] is not None
    }
    assert quality["volumes"]["exposed"]["clicks"] + quality["test"]["clicks"] == len(clicked)
