"""The trivago adapter: on sessions made by hand, on folders it cannot use, and on the real extract where it is at hand."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from data_gen.es3 import ES3Config, build, build_all
from data_gen.public import adapter
from data_gen.public.trivago import ADAPTER, convert, floors, floors_of_samples, main, read
from data_gen.public.trivago_source import read_timelines
from unisc.data import manifest
from unisc.errors import InputError

REAL = Path(os.environ.get("UNISC_REAL_DATA", Path(__file__).parents[3] / ".." / "shared" / "data")) / "trivago_rs19_100k"
DAY = 86400
IMAGE, OUT = "interaction item image", "clickout item"


def row(session: str, ts: int, step: int, action: str, reference: str, shown: str | None = None, prices: str | None = None):
    return {
        "user_id": "u", "session_id": session, "timestamp": ts, "step": step, "action_type": action, "reference": reference,
        "platform": "US" if session < "c" else "AA", "city": "Berlin, Germany", "device": "mobile", "current_filters": None,
        "impressions": shown, "prices": prices,
    }  # fmt: skip


ROWS = [
    row("a", 100, 1, IMAGE, "70"),
    row("a", 100, 2, IMAGE, "30"),
    row("a", 100, 3, "change of sort order", "price only"),
    row("a", 100, 4, OUT, "30", "50|70|30|10", "9|8|7|6"),
    row("a", 101, 5, OUT, "10", "50|70|30|10", "9|8|7|6"),
    row("b", 200, 1, "search for destination", "Berlin, Germany"),
    row("b", 210, 2, "interaction item info", "no hotel"),
    row("b", 220, 3, "search for item", "50"),
    row("b", 230, 4, OUT, "50", "10|50", "1|2"),
    row("c", 800, 1, IMAGE, "10"),
    row("c", 1200, 2, OUT, "10", "10|50", "1|2"),  # straddles a split at 1000
    row("d", 1000, 1, OUT, "70", "30|70|10", "5|5|5"),
    row("d", 1001, 2, IMAGE, "30"),
]


def write(folder: Path, rows) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    found = pa.Table.from_pylist(rows)
    text = [f.with_type(pa.string()) if pa.types.is_null(f.type) else f for f in found.schema]
    pq.write_table(found.cast(pa.schema(text)), folder / "events.parquet")
    return folder


@pytest.fixture
def logs(tmp_path):
    source = write(tmp_path / "source", ROWS)
    made = convert(source, tmp_path / "logs", test_share=0.2)
    return tmp_path / "logs", made


def table(logs: Path, name: str):
    return pq.read_table(logs / name).to_pylist()


def test_tables_follow_the_declared_schemas(logs, check_declared):
    directory, made = logs
    assert made["domains"] == ["search", "browse"]
    check_declared(directory)
    assert [q["text"] for q in table(directory, "queries")] == ["Berlin, Germany"]
    assert [u["segment"] for u in table(directory, "users")] == [1, 1, 0], "platforms in order of their names: AA, US"


def test_sessions_stay_whole_and_straddling_ones_are_left_out(logs):
    _, made = logs
    assert made["test_start"] == 1000
    assert made["quality"]["sessions"] == {"all": 4, "train": 2, "test": 1, "straddling, left out": 1}
    assert made["quality"]["clickouts"] == {"all": 5, "train": 3, "test": 1, "straddling, left out": 1}
    assert made["quality"]["rows_left_out"] == {
        "change of sort order": 1, "interaction item info": 1, "search for destination": 1,
    }  # fmt: skip


def test_a_session_whose_last_second_is_the_first_of_the_test_split_straddles(tmp_path):
    late = [row("e", 990, 1, IMAGE, "10"), row("e", 1000, 2, OUT, "10", "10|50", "1|2")]
    made = convert(write(tmp_path / "source", ROWS + late), tmp_path / "logs", test_share=0.15)
    assert made["test_start"] == 1000
    assert made["quality"]["sessions"] == {"all": 5, "train": 2, "test": 1, "straddling, left out": 2}


def test_order_within_a_second_becomes_order_in_time(logs):
    directory, made = logs
    ids = {10: 0, 30: 1, 50: 2, 70: 3}
    events = [(e["user_id"], e["item_id"], e["ts"], e["domain"], e["request_id"]) for e in table(directory, "events")]
    assert events == [
        (0, ids[70], 100, "browse", None),
        (0, ids[30], 101, "browse", None),
        (0, ids[30], 103, "search", 0),  # the sort order in between took second 102
        (0, ids[10], 104, "search", 1),
        (1, ids[50], 220, "browse", None),
        (1, ids[50], 230, "search", 2),
        (2, ids[70], 1000, "search", 3),
        (2, ids[30], 1001, "browse", None),
    ]
    assert [r["ts"] for r in table(directory, "requests")] == [103, 104, 230, 1000]
    assert made["quality"]["seconds_moved"] == {"rows": 4, "mean": round((1 + 2 + 3 + 3) / 13, 2), "max": 3}


def test_lists_are_exposed_in_shown_order_with_prices(logs):
    candidates = [c for c in table(logs[0], "candidates") if c["request_id"] == 0]
    assert [(c["item_id"], c["rank"], c["position"], c["exposed"], c["price"]) for c in candidates] == [
        (2, 0, 0, True, 9), (3, 1, 1, True, 8), (1, 2, 2, True, 7), (0, 3, 3, True, 6),
    ]  # fmt: skip


def test_floors_by_hand(tmp_path):
    found = floors(read_timelines(write(tmp_path / "source", ROWS)))
    assert {name: f["clickouts"] for name, f in found.items()} == dict.fromkeys(found, 5)
    # Chosen slots as shown 3, 4, 2, 1, 2; by price 2, 1, 2, 1, 2; by last touch 1 (30), 3 (30, 70, then 50, 10: 4), 1, 1, 2.
    assert found["shown_order"]["mrr"] == pytest.approx((1 / 3 + 1 / 4 + 1 / 2 + 1 + 1 / 2) / 5)
    assert found["cheapest_first"]["mrr"] == pytest.approx((1 / 2 + 1 + 1 / 2 + 1 + 1 / 2) / 5)
    assert found["last_touched_first"]["mrr"] == pytest.approx((1 + 1 / 4 + 1 + 1 + 1 / 2) / 5)


def test_compositions_of_logs_without_lists_elsewhere(logs, tmp_path):
    directory, _ = logs
    made = build_all(directory, tmp_path / "samples", ES3Config(composition="exposed"), threads=1)
    volumes = made["searchified"]["quality"]["volumes"]
    assert volumes["exposed"] == volumes["unexposed"] == {"requests": 3, "samples": 10, "clicks": 3, "purchases": 0}
    assert volumes["attributed"] == volumes["searchified"]
    assert "note" in made["searchified"]["quality"]["searchification"]
    assert floors_of_samples(tmp_path / "samples" / "exposed")["shown_order"] == {
        "mrr": 0.5,
        "ndcg": pytest.approx(0.63093),
        "clickouts": 1,
    }


def test_browsing_after_a_clickout_is_attributed_to_its_list(tmp_path):
    rows = [*ROWS, row("b", 240, 5, IMAGE, "10"), row("b", 250, 6, IMAGE, "50"), row("b", 260, 7, IMAGE, "70")]
    convert(write(tmp_path / "source", rows), tmp_path / "logs", test_share=0.2)
    made = build(tmp_path / "logs", tmp_path / "out", ES3Config(composition="attributed"), threads=1)
    fates = made["quality"]["attribution"]["click"]
    assert {k: v for k, v in fates.items() if v} == {
        "events": 7, "attributed": 1, "already_positive": 1, "not_a_candidate": 1, "no_request_in_window": 3, "test_period": 1,
    }  # fmt: skip
    assert made["quality"]["labels"]["click"] == {"level 1, search": 3, "level 2, browse": 1}


def bad(change):
    return [{**r, **change(r)} for r in ROWS]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{k: v for k, v in r.items() if k != "prices"} for r in ROWS], "column prices is missing"),
        ([r for r in ROWS if r["action_type"] != OUT], "holds no click-out"),
        (bad(lambda r: {"prices": r["prices"] and "1"}), "impressions and prices differ in length"),
        (bad(lambda r: {"prices": r["prices"] and r["prices"].replace("9", "-9")}), "prices has negative or NaN"),
        (bad(lambda r: {"prices": r["prices"] and r["prices"].replace("9", "nan")}), "prices has negative or NaN"),
        (bad(lambda r: {"prices": r["prices"] and r["prices"].replace("9", "x")}), "prices holds what is not a number"),
        (bad(lambda r: {"impressions": r["impressions"] and r["impressions"].replace("50", "ab")}), "not an item number"),
        (bad(lambda r: {"impressions": r["impressions"] and r["impressions"].replace("70", "50")}), "repeats an item within"),
        (bad(lambda r: {"impressions": None, "prices": None}), "impressions is null in 5 click-out"),
        (bad(lambda r: {"timestamp": -1}), "timestamp holds '-1' in row 1, a negative time"),
        (
            bad(lambda r: {"city": None if r["step"] == 7 or r["session_id"] == "d" else "x"}),
            "city holds 'None' in row 12, but every row needs a value",
        ),
    ],
)
def test_unusable_folder_is_one_clear_line(tmp_path, rows, words):
    write(tmp_path / "source", rows)
    with pytest.raises(InputError, match=words) as caught:
        convert(tmp_path / "source", tmp_path / "logs")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "logs").exists()


def test_command_names_a_wrong_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["trivago", "--path", str(tmp_path), "--out", str(tmp_path / "logs")])
    assert main() == 2
    error = capsys.readouterr().err
    assert "events.parquet: not found; give the folder" in error
    assert error.count("\n") == 1


def test_adapter_makes_the_same_logs_and_names_their_source(logs, tmp_path):
    directory, made = logs
    share = {"test_share": 0.2}
    assert made["config"] == {
        "source": "trivago", "events_sha256": manifest.file_sha256(directory.parent / "source" / "events.parquet"), **share,
    }  # fmt: skip
    assert made["gives"] and any("purchases" in words for words in made["cannot_give"])
    found = read(directory.parent / "source", **share)
    assert found.kind == made["kind"] == "logs"
    for name, rows in found.tables.items():
        assert rows.equals(pq.read_table(directory / name))
    usual = adapter.convert(ADAPTER, write(tmp_path / "same", ROWS), tmp_path / "usual")
    assert usual == convert(tmp_path / "same", tmp_path / "again"), "the adapter's own defaults"
    assert usual["fingerprint"] != made["fingerprint"]


def test_existing_output_is_left_alone(logs):
    before = manifest.read(logs[0], kind="logs", verify=True)
    with pytest.raises(InputError, match="already exists"):
        convert(logs[0].parent / "source", logs[0])
    assert manifest.read(logs[0], kind="logs", verify=True) == before


@pytest.mark.real_data
@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL}: no trivago extract there; set UNISC_REAL_DATA to its parent")
def test_real_extract_reproduces_the_known_floors_from_logs_and_from_samples(tmp_path):
    made = convert(REAL, tmp_path / "logs")
    everything = made["quality"]["floors"]["all"]
    assert everything["shown_order"]["clickouts"] == 13_597
    known = {"shown_order": 0.450, "cheapest_first": 0.251, "last_touched_first": 0.604}
    assert {name: round(f["mrr"], 3) for name, f in everything.items()} == known
    clickouts = made["quality"]["clickouts"]
    assert 0.2 <= clickouts["test"] / clickouts["all"] <= 0.25
    assert clickouts["straddling, left out"] < 100

    requests = pq.read_table(tmp_path / "logs" / "requests")
    train = pc.unique(requests.filter(pc.less(requests["ts"], made["test_start"]))["user_id"])
    test = pc.unique(requests.filter(pc.greater_equal(requests["ts"], made["test_start"]))["user_id"])
    assert not set(train.to_pylist()) & set(test.to_pylist()), "a session is in one split"

    build(tmp_path / "logs", tmp_path / "samples", ES3Config(composition="attributed"), threads=1)
    test_floors = made["quality"]["floors"]["test"]
    assert floors_of_samples(tmp_path / "samples", "test") == test_floors, "touch_age carries the last touch"
    assert test_floors["last_touched_first"]["mrr"] > 0.59
    assert round(floors_of_samples(tmp_path / "samples", "train")["last_touched_first"]["mrr"], 2) == 0.60
