"""The RetailRocket adapter on both of the source's forms, made by hand, and on the real subset where it is at hand."""

import gzip
import os
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_gen.public.adapter import convert
from data_gen.public.retailrocket import ADAPTER, ORIGINAL, SUBSET, TEST, read
from unisc.errors import InputError

REAL = (
    Path(os.environ.get("UNISC_REAL_DATA", Path(__file__).parents[3] / ".." / "shared" / "data")) / "retailrocket_multibehavior"
)
T0 = 1_433_222_501


def row(user, item, behavior, t):
    return {"user": user, "item": item, "behavior": behavior, "timestamp": T0 + t}


ROWS = [
    row(7, 40, "view", 10), row(3, 20, "buy", 30), row(3, 20, "view", 40), row(3, 10, "cart", 5), row(7, 40, "view", 10),
    row(7, 40, "cart", 10), row(7, 40, "view", 11),
]  # fmt: skip
HIDDEN = [{"user": 3, "item": 30}, {"user": 7, "item": 40}, {"user": 3, "item": 30}]


def write(folder: Path, rows=ROWS, hidden=HIDDEN) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / SUBSET)
    pq.write_table(pa.Table.from_pylist(hidden), folder / TEST)
    return folder


def original(rows) -> str:
    names = {"view": "view", "cart": "addtocart", "buy": "transaction"}
    lines = [
        f"{1000 * r['timestamp'] + 999},{r['user']},{names[r['behavior']]},{r['item']},{'5' * (r['behavior'] == 'buy')}"
        for r in rows
    ]
    return "\n".join(["timestamp,visitorid,event,itemid,transactionid", *lines]) + "\n"


def told(made, name):
    return [tuple(r.values()) for r in made.tables[name].to_pylist()]


def test_events_and_hidden_purchases(tmp_path):
    made = read(write(tmp_path))
    assert made.kind == "events"
    assert made.domains == ("shop",)
    assert made.test_start is None
    assert made.end_ts == T0 + 41
    assert told(made, "users") == [(0,), (1,)]
    assert told(made, "items") == [(0,), (1,), (2,), (3,)], "10, 20, 30, 40; 30 is in no event"
    assert told(made, "events") == [
        (0, 0, T0 + 5, "shop", "cart"), (1, 3, T0 + 10, "shop", "click"), (1, 3, T0 + 10, "shop", "cart"),
        (1, 3, T0 + 11, "shop", "click"), (0, 1, T0 + 30, "shop", "purchase"), (0, 1, T0 + 40, "shop", "click"),
    ]  # fmt: skip
    assert told(made, "interactions") == [(0, 2, "test"), (1, 3, "test")]
    assert made.quality == {
        "rows": {
            SUBSET: {"in": 7, "kept": 6, "dropped": {"repeats an event of its second": 1}},
            TEST: {"in": 3, "kept": 2, "dropped": {"repeats a pair": 1}},
        },
        "test purchases of a pair with events": 1,
        "items in no event": 1,
    }


@pytest.mark.parametrize("zipped", [False, True])
def test_original_form_says_the_same(tmp_path, zipped):
    subset = read(write(tmp_path / "subset", hidden=HIDDEN[1:2]))
    text = original(ROWS).encode()
    (tmp_path / f"{ORIGINAL}{'.gz' * zipped}").write_bytes(gzip.compress(text) if zipped else text)
    made = read(tmp_path)
    assert made.kind == "events"
    assert "interactions" not in made.tables
    assert all(made.tables[name].equals(subset.tables[name]) for name in made.tables)
    assert [r["dropped"] for r in made.quality["rows"].values()] == [{"repeats an event of its second": 1}]


def test_converted_directory_states_what_it_lacks(tmp_path, check_declared):
    made = convert(ADAPTER, write(tmp_path / "source"), tmp_path / "out")
    assert made["kind"] == "events"
    assert made["counts"] == {"items": 4, "users": 2, "events": 6, "interactions": 2}
    assert any("lists" in words for words in made["cannot_give"])
    check_declared(tmp_path / "out", made["counts"])


def bad(change, place=1):
    rows = [{**r} for r in ROWS]
    rows[place] |= change
    return rows


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (bad({"behavior": "like"}), r"interactions.parquet: column behavior holds 'like' in row 2, not one of view, cart, buy"),
        (bad({"timestamp": 1000 * T0}, place=2), "column timestamp holds '1433222501000' in row 3, not a time"),
        (bad({"user": None}), "column user holds 'None' in row 2, but every row needs a value"),
        ([{**r, "user": f"u{r['user']}"} for r in ROWS], "column user is string; give it as int64"),
        ([{**r, "user": r["user"] + 0.5} for r in ROWS], "column user holds '7.5' in row 1, which does not fit"),
        ([{k: v for k, v in r.items() if k != "item"} for r in ROWS], "column item is missing"),
        (ROWS[:0], "column user is missing"),
    ],
)
def test_unusable_subset_is_one_clear_line(tmp_path, rows, words):
    with pytest.raises(InputError, match=words) as caught:
        read(write(tmp_path, rows))
    assert "\n" not in str(caught.value)


def test_unusable_folders_are_one_clear_line(tmp_path):
    with pytest.raises(InputError, match=r"interactions.parquet: not found"):
        read(tmp_path)
    (write(tmp_path) / TEST).unlink()
    with pytest.raises(InputError, match=r"test_buy.parquet: not found"):
        read(tmp_path)
    write(tmp_path)
    pq.write_table(pa.Table.from_pylist(ROWS)[:0], tmp_path / SUBSET)
    with pytest.raises(InputError, match=r"interactions.parquet: holds no rows"):
        read(tmp_path)
    (tmp_path / SUBSET).write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match=r"interactions.parquet: cannot be read"):
        read(tmp_path)
    (tmp_path / ORIGINAL).write_text(original(ROWS))
    with pytest.raises(InputError, match="one is made of the other"):
        read(tmp_path)
    (tmp_path / SUBSET).unlink()
    (tmp_path / ORIGINAL).write_text(original(ROWS).replace("addtocart", "remove"))
    with pytest.raises(InputError, match=r"events.csv: column event holds 'remove' in row 5"):
        read(tmp_path)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.data())
def test_fuzzed_lines_end_in_one_line_or_in_sound_tables(tmp_path_factory, data):
    lines = original(ROWS).splitlines()
    place = data.draw(st.integers(1, len(lines) - 1))
    cells = lines[place].split(",")
    value = data.draw(st.sampled_from(["", "nan", "-1", "0", "1.5", "9" * 30, '"', "view"]) | st.text(max_size=5))
    cells[data.draw(st.integers(0, 3))] = value
    lines[place] = ",".join(cells)
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / ORIGINAL).write_text("\n".join(lines) + "\n", encoding="utf-8")
    try:
        made = read(folder)
    except InputError as e:
        assert "\n" not in str(e)
        assert ORIGINAL in str(e)
    else:
        events = told(made, "events")
        assert len(set(events)) == len(events) == next(iter(made.quality["rows"].values()))["kept"]
        assert {e[0] for e in events} == set(range(len(made.tables["users"])))
        assert {e[1] for e in events} == set(range(len(made.tables["items"])))


@pytest.mark.real_data
@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL}: no RetailRocket subset there; set UNISC_REAL_DATA to its parent")
def test_real_subset(tmp_path):
    made = convert(ADAPTER, REAL, tmp_path / "out")
    assert made["counts"] == {"items": 30_113, "users": 2_174, "events": 97_381, "interactions": 2_174}
    assert made["quality"]["rows"] == {
        SUBSET: {"in": 97_381, "kept": 97_381, "dropped": {}}, TEST: {"in": 2_174, "kept": 2_174, "dropped": {}},
    }  # fmt: skip
    assert made["quality"]["test purchases of a pair with events"] == 0
    events = pq.read_table(tmp_path / "out" / "events")
    assert Counter(events["kind"].to_pylist()) == {"click": 75_374, "cart": 12_456, "purchase": 9_551}
    days = pc.strftime(events["ts"].cast(pa.timestamp("s")), format="%Y-%m-%d")
    assert pc.min_max(days).as_py() == {"min": "2015-05-03", "max": "2015-09-18"}
    source = pq.read_table(REAL / SUBSET)
    assert set(zip(events["user_id"].to_pylist(), events["item_id"].to_pylist(), strict=True)) == set(
        zip(source["user"].to_pylist(), source["item"].to_pylist(), strict=True)
    ), "ids of the subset stay"
