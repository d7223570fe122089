"""Logs that cannot be used end in one line naming table, column and remedy; rows that refer to nothing are set aside."""

import json
import shutil

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from data_gen.es3 import ES3Config, build
from data_gen.es3.__main__ import main
from unisc.errors import InputError

DAY = 86400


@pytest.fixture(scope="module")
def good(make_shop):
    shop = make_shop().live()
    user = shop.user()
    request = shop.request(user, 500, shown=[1, 2], hidden=[3], query=shop.query("thing"))
    shop.event(user, 1, 510, request=request)
    shop.tables()
    return shop


def put(table: pa.Table, name: str, value, row: int = 0) -> pa.Table:
    """Replace one value of a column."""
    i = table.column_names.index(name)
    values = table[name].to_pylist()
    values[row] = value
    return table.set_column(i, table.schema.field(i), pa.array(values, table.schema.field(i).type))


def repeat(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table, table.slice(0, 1)])


BAD = {
    "missing column": ("requests", lambda t: t.drop_columns(["ts"]), r"requests/part-00000.parquet: column ts is missing; add"),
    "foreign column": ("items", lambda t: t.append_column("colour", t["item_id"]), r"column colour is not one of items's; rem"),
    "wrong type": ("candidates", lambda t: t.set_column(2, "rank", t["rank"].cast(pa.int64())), r"rank is int64, not int16; c"),
    "empty": ("users", lambda t: t.slice(0, 0), r"users: table users is empty; give"),
    "no events": ("events", lambda t: t.slice(0, 0), r"events: table events is empty; give"),
    "null": (
        "requests",
        lambda t: put(t, "user_id", None, 1),
        r"requests: column user_id is null in 1 of 3 rows, one at request_id 1; .* --max-quarantine",
    ),
    "negative price": (
        "candidates",
        lambda t: put(t, "price", -1.0),
        r"candidates: column price is negative in 1 of 5 rows, one at request_id 0, item_id 0; correct",
    ),
    "nan price": (
        "items",
        lambda t: put(t, "price", float("nan"), 2),
        r"items/part-00000.parquet: row 2: column price is NaN or infinite",
    ),
    "negative rank": ("candidates", lambda t: put(t, "rank", -3), r"candidates: column rank is negative in 1 of 5 rows"),
    "negative time": ("events", lambda t: put(t, "ts", -1), r"events: column ts is negative in 1 of 3 rows, one at user_id 0"),
    "milliseconds": (
        "requests",
        lambda t: put(t, "ts", 1_700_000_000_000),
        r"column ts is too large for unix seconds in 1 of 3 rows",
    ),
    "int64 extreme": ("events", lambda t: put(t, "ts", 2**63 - 1), r"column ts is too large for unix seconds in 1 of 3 rows"),
    "request id extreme": (
        "requests",
        lambda t: put(t, "request_id", 2**63 - 1),
        r"column request_id is not below 2\*\*51 in 1",
    ),
    "impossible propensity": ("candidates", lambda t: put(t, "propensity", 1.5), r"propensity is not in \(0, 1\] in 1 of 5"),
    "conflicting request": (
        "requests",
        lambda t: put(pa.concat_tables([t, t.slice(0, 1)]), "ts", 7, 3),
        r"requests: duplicate in 2 of 4 rows, one at request_id 0",
    ),
    "null id in a catalogue": (
        "users",
        lambda t: put(t, "user_id", None, 1),
        r"users/part-00000.parquet: row 1: column user_id is null",
    ),
    "repeated id in a catalogue": (
        "users",
        lambda t: put(t, "user_id", 0, 1),
        r"part-00000.parquet: row 1: duplicate user_id 0",
    ),
    "duplicate request": ("requests", repeat, r"requests: duplicate in 1 of 4 rows, one at request_id 0"),
    "duplicate candidate": ("candidates", repeat, r"candidates: duplicate in 1 of 6 rows, one at request_id 0, item_id 0"),
    "sparse ids": (
        "users",
        lambda t: put(t, "user_id", 7, 1),
        r"users/part-00000.parquet: row 1: column user_id has 7 where 1 should follow, so it is not dense",
    ),
    "unknown domain": (
        "requests",
        lambda t: put(t, "domain", "mail"),
        r"requests: column domain has unknown 'mail', known are search",
    ),
    "unknown event domain": ("events", lambda t: put(t, "domain", "mail"), r"events: column domain has unknown 'mail'"),
    "unknown kind": (
        "events",
        lambda t: put(t, "kind", "wish"),
        r"events: column kind has unknown 'wish', known are click, cart",
    ),
    "no test positives": (
        "events",
        lambda t: t.filter(pc.less(t["ts"], 10 * DAY)),
        r"the test split \(search requests at or after test_start 864000\) has no positives",
    ),
    "no train positives": ("events", lambda t: t.filter(pc.greater(t["ts"], 10 * DAY)), r"the train split .* has no positives"),
    "no test requests": ("requests", lambda t: put(t, "ts", 5, 1), r"the test split .* has no requests; move test_start"),
}


@pytest.mark.parametrize("case", BAD)
def test_unusable_table_is_one_clear_line(good, tmp_path, case):
    name, change, words = BAD[case]
    logs = good.write(tmp_path / "logs", **{name: change(good.tables()[name])})
    with pytest.raises(InputError, match=words) as caught:
        build(logs, tmp_path / "out", ES3Config(composition="exposed"), threads=1)
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["logs"], "nothing written, nothing left aside"


def test_directory_that_is_no_logs(tmp_path):
    with pytest.raises(InputError, match=r"no manifest.json, so not a finished logs directory"):
        build(tmp_path, tmp_path / "out", ES3Config(composition="exposed"))


def test_missing_table_and_broken_file(good, tmp_path):
    logs = good.write(tmp_path / "logs")
    text = json.loads((logs / "manifest.json").read_text())
    text["shards"] = {}
    (logs / "manifest.json").write_text(json.dumps(text))
    file = logs / "events" / "part-00000.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"part-00000.parquet: not a readable Parquet file"):
        build(logs, tmp_path / "out", ES3Config(composition="exposed"))
    shutil.rmtree(logs / "events")
    with pytest.raises(InputError, match=r"events: no part-\*.parquet, so table events is missing; add it"):
        build(logs, tmp_path / "out", ES3Config(composition="exposed"))


@pytest.mark.parametrize(
    ("key", "value"), [("domains", []), ("domains", "search"), ("test_start", None), ("test_start", "now")]
)
def test_manifest_must_name_domains_and_split(good, tmp_path, key, value):
    logs = good.write(tmp_path / "logs")
    text = json.loads((logs / "manifest.json").read_text())
    (logs / "manifest.json").write_text(json.dumps({**text, key: value}))
    with pytest.raises(InputError, match=rf"manifest.json: {key} is"):
        build(logs, tmp_path / "out", ES3Config(composition="exposed"))


def test_output_that_cannot_be_made(good, tmp_path):
    logs = good.write(tmp_path / "logs")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file.*; check that the folder is writable"):
        build(logs, tmp_path / "file" / "out", ES3Config(composition="exposed"))


def test_rows_that_refer_to_nothing_are_set_aside_with_their_reason(tmp_path, make_shop, read_samples):
    shop = make_shop().live()
    user, other = shop.user(), shop.user()
    request = shop.request(user, 500, shown=[1, 2])
    lost = shop.request(user, 600, shown=[1])
    shop.event(user, 1, 510, request=request)
    shop.event(user, 2, 499, request=request)  # before its request
    shop.event(other, 2, 520, request=request)  # another user's request
    shop.event(user, 2, 530, request=77)  # unknown request
    shop.event(user, 2, 610, request=lost)  # its request is set aside
    tables = shop.tables()
    candidates = put(put(tables["candidates"], "item_id", 50, 3), "request_id", 99, 0)
    events = put(tables["events"], "user_id", 40, 1)  # the test click: put another in its place
    extra = tables["events"].slice(1, 1)
    logs = shop.write(
        tmp_path / "logs",
        candidates=pa.concat_tables([candidates, tables["candidates"].slice(0, 1)]),
        requests=put(tables["requests"], "query_id", 9, lost),
        events=pa.concat_tables([events, extra]),
    )
    made = build(logs, tmp_path / "out", ES3Config(composition="exposed"), threads=1)
    assert made["quality"]["quarantine"] == {
        "candidates: unknown item": 1,
        "candidates: unknown request": 2,
        "events: another user's request": 1,
        "events: before its request": 1,
        "events: unknown request": 2,
        "events: unknown user": 1,
        "requests: unknown query": 1,
    }
    assert made["counts"]["quarantined"] == 9
    rows = pq.read_table(tmp_path / "out" / "quarantine.parquet").to_pylist()
    assert {
        "table": "events",
        "reason": "before its request",
        "request_id": request,
        "user_id": user,
        "item_id": 2,
        "ts": 499,
    } in rows
    assert list(read_samples(tmp_path / "out")[request]["candidates"]) == [1]


def test_faulty_and_repeated_rows_are_set_aside_up_to_a_share(good, tmp_path, read_samples):
    tables = good.tables()
    candidates, events, requests = tables["candidates"], tables["events"], tables["requests"]
    first = candidates.slice(0, 1)
    logs = good.write(
        tmp_path / "logs",
        # item 2 of the third request twice alike, item 3 twice with different ranks, item 1 with an impossible price
        candidates=pa.concat_tables(
            [put(candidates, "price", float("inf"), 2), candidates.slice(3, 2), put(candidates.slice(4, 1), "rank", 9)]
        ).cast(first.schema),
        events=pa.concat_tables([events, events.slice(0, 1), put(events.slice(0, 1), "item_id", None)]),
        requests=pa.concat_tables([requests, put(requests.slice(0, 1), "request_id", -5)]),
    )
    made = build(logs, tmp_path / "out", ES3Config(composition="exposed"), threads=1, max_quarantine=1.0)
    assert made["quality"]["quarantine"] == {
        "candidates: conflicting duplicate": 3,
        "candidates: duplicate row": 1,
        "candidates: price is NaN or infinite": 1,
        "events: duplicate row": 1,
        "events: item_id is null": 1,
        "requests: request_id is negative": 1,
    }
    assert list(read_samples(tmp_path / "out")[2]["candidates"]) == [2]


def test_logs_without_a_manifest_say_how_to_write_one(good, tmp_path, capsys, monkeypatch):
    logs = good.write(tmp_path / "logs")
    before = json.loads((logs / "manifest.json").read_text())
    (logs / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"log tables without a manifest.json; write one with .* describe-logs"):
        build(logs, tmp_path / "out", ES3Config(composition="exposed"), threads=1)
    command = ["es3", "describe-logs", str(logs), "--domains", "search,rec,shop", "--test-start", "1970-01-11"]
    monkeypatch.setattr("sys.argv", command)
    main()
    after = json.loads((logs / "manifest.json").read_text())
    assert {k: after[k] for k in ("counts", "domains", "shards", "test_start")} == {
        k: before[k] for k in ("counts", "domains", "shards", "test_start")
    }
    build(logs, tmp_path / "out", ES3Config(composition="exposed"), threads=1)


def test_a_shard_that_is_not_the_manifests_is_named(good, tmp_path):
    logs = good.write(tmp_path / "logs")
    file = logs / "events" / "part-00000.parquet"
    body = bytearray(file.read_bytes())
    body[40] ^= 1
    file.write_bytes(bytes(body))
    with pytest.raises(InputError, match=r"events/part-00000.parquet: does not match the manifest's size or checksum"):
        build(logs, tmp_path / "out", ES3Config(composition="exposed"), threads=1)
