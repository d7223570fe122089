"""Logs that cannot be used end in one line naming table, column and remedy; rows that refer to nothing are set aside."""

import json
import shutil

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from data_gen.es3 import ES3Config, build
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
    "empty": ("queries", lambda t: t.slice(0, 0), r"queries: table queries is empty; give"),
    "no events": ("events", lambda t: t.slice(0, 0), r"events: table events is empty; give"),
    "null": (
        "requests",
        lambda t: put(t, "user_id", None, 1),
        r"requests: column user_id has 1 null value\(s\), one at request_id 1",
    ),
    "negative price": (
        "candidates",
        lambda t: put(t, "price", -1.0),
        r"candidates: column price has 1 negative value\(s\), one at req",
    ),
    "nan price": (
        "items",
        lambda t: put(t, "price", float("nan"), 2),
        r"items: column price has 1 NaN or infinite value\(s\), one at item_id 2",
    ),
    "negative rank": ("candidates", lambda t: put(t, "rank", -3), r"candidates: column rank has 1 negative"),
    "negative time": ("events", lambda t: put(t, "ts", -1), r"events: column ts has 1 negative value\(s\), one at user_id 0"),
    "milliseconds": ("requests", lambda t: put(t, "ts", 1_700_000_000_000), r"column ts has 1 too large for unix seconds"),
    "int64 extreme": ("events", lambda t: put(t, "ts", 2**63 - 1), r"column ts has 1 too large for unix seconds"),
    "duplicate request": ("requests", repeat, r"requests: duplicate request_id 0 in 2 rows; keep one"),
    "duplicate candidate": ("candidates", repeat, r"candidates: duplicate request_id 0, item_id 0 in 2 rows"),
    "sparse ids": (
        "users",
        lambda t: put(t, "user_id", 7, 1),
        r"users: column user_id reaches 7 in 2 rows, so it is not dense",
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
