"""The Online Retail adapter: on invoices made by hand, on folders it cannot use, and on the real log where it is at hand."""

import datetime
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_gen.public.adapter import convert
from data_gen.public.online_retail import ADAPTER, COLUMNS, TRANSACTIONS, read
from unisc.errors import InputError

REAL = Path(os.environ.get("UNISC_REAL_DATA", Path(__file__).parents[3] / ".." / "shared" / "data")) / "online_retail_uci"
START = datetime.datetime(2010, 12, 1, 8, 26)
T0 = 1_291_191_960


def line(minute, customer, code, *, invoice="536365", n=2, price=1.5, text="A CUP", country="Malta"):
    return {
        "InvoiceNo": invoice, "StockCode": code, "Description": text, "Quantity": n,
        "InvoiceDate": START + datetime.timedelta(minutes=minute), "UnitPrice": price, "CustomerID": customer,
        "Country": country,
    }  # fmt: skip


ROWS = [
    line(9, 17, "20001", text="LATE NAME", price=9.0),
    line(0, 17, "20001", text=" A CUP "),
    line(0, 17, "20001", n=5, invoice="536366"),
    line(1, 17, "20001b", text=None, price=0.25),
    line(2, 12, "10000", country="Eire", text="A BAG"),
    line(3, 12, "DCGS0001", country="Malta", text="A BOX"),
    line(4, None, "20001"),
    line(4, None, "POST", invoice="C536367", n=-1),
    line(4, 12, "20001", invoice="C536367", n=-2),
    line(5, 17, "20001", n=0),
    line(5, 17, "POST", price=18.0),
    line(5, 17, "m"),
    line(5, 13, "20001", price=0.0),
]


def write(folder: Path, rows, *, without=()) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([(field.name, field.type) for field in COLUMNS[TRANSACTIONS]])
    pq.write_table(pa.Table.from_pylist(rows, schema).drop_columns(list(without)), folder / TRANSACTIONS)
    return folder


def test_lines_become_purchases_in_the_order_of_time(tmp_path):
    made = read(write(tmp_path, ROWS), test_share=0.4)
    assert made.kind == "events"
    assert made.domains == ("shop",)
    assert set(made.tables) == {"items", "users", "events"}
    codes = ["10000", "20001", "20001b", "DCGS0001"]
    customers = [12, 17]
    assert [(customers[e["user_id"]], codes[e["item_id"]], e["ts"] - T0) for e in made.tables["events"].to_pylist()] == [
        (17, "20001", 0), (17, "20001b", 60), (12, "10000", 120), (12, "DCGS0001", 180), (17, "20001", 540),
    ]  # fmt: skip
    assert set(made.tables["events"]["kind"].to_pylist()) == {"purchase"}
    assert (made.test_start, made.end_ts) == (T0 + 180, T0 + 541)


def test_products_and_customers_are_as_on_their_first_purchase(tmp_path):
    made = read(write(tmp_path, ROWS))
    assert [(i["title"], i["price"]) for i in made.tables["items"].to_pylist()] == [
        ("A BAG", 1.5), ("A CUP", 1.5), ("", 0.25), ("A BOX", 1.5),
    ]  # fmt: skip
    assert [u["segment"] for u in made.tables["users"].to_pylist()] == [1, 2]


def test_every_line_is_accounted_for_under_one_reason(tmp_path):
    quality = read(write(tmp_path, ROWS)).quality
    assert quality["rows"] == {
        TRANSACTIONS: {
            "in": 13,
            "kept": 5,
            "dropped": {
                "no customer": 2,
                "cancellation": 1,
                "quantity is not positive": 1,
                "stock code is no product": 2,
                "price is not positive": 1,
                "repeats a purchase of this customer, product and minute": 1,
            },
        }
    }
    assert quality["stock codes that are no product"] == {"POST": 2, "m": 1}
    assert quality["customers of several countries"] == 1
    assert (quality["customers of no purchase"], quality["stock codes of no purchase"]) == (1, 2)
    assert quality["items without a title"] == 1


def test_written_tables_follow_the_declared_schemas(tmp_path, check_declared):
    made = convert(ADAPTER, write(tmp_path / "source", ROWS), tmp_path / "made")
    assert made["kind"] == "events"
    check_declared(tmp_path / "made", ("items", "users", "events"))
    assert not (tmp_path / "made" / "candidates").exists(), "there are no impressions"


def bad(**change):
    return [*ROWS[:3], {**ROWS[3], **change}, *ROWS[4:]]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (bad(InvoiceNo=None), "column InvoiceNo holds 'None' in row 4, but every row needs a value there"),
        (bad(Quantity=None), "column Quantity holds 'None' in row 4"),
        (bad(UnitPrice=float("nan")), "column UnitPrice holds 'nan' in row 4"),
        (bad(UnitPrice=float("inf")), "column UnitPrice holds 'inf' in row 4, no price"),
        (bad(CustomerID=-1), "column CustomerID holds '-1' in row 4, a negative id"),
        (bad(InvoiceDate=datetime.datetime(1, 1, 1)), "column InvoiceDate holds '0001-01-01 00:00:00' in row 4, not a time"),
        (ROWS[6:], "holds no purchase of a product by a known customer"),
        ([], "holds no rows"),
    ],
)
def test_unusable_folder_is_one_clear_line(tmp_path, rows, words):
    with pytest.raises(InputError, match=words) as caught:
        read(write(tmp_path, rows))
    assert TRANSACTIONS in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_column_and_file_are_named(tmp_path):
    with pytest.raises(InputError, match=r"transactions\.parquet: not found"):
        read(tmp_path)
    with pytest.raises(InputError, match="column CustomerID is missing; give it once, as int32"):
        read(write(tmp_path, ROWS, without=["CustomerID"]))
    with pytest.raises(InputError, match="is no share; give a number between 0 and 1"):
        read(write(tmp_path, ROWS), test_share=1.0)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data())
def test_fuzzed_cells_end_in_one_line_or_in_sound_tables(tmp_path_factory, data):
    rows = [dict(row) for row in ROWS]
    values = {
        "text": st.sampled_from([None, "", "C", "POST", "20001", "\x00", "é"]),
        "int64": st.sampled_from([None, 0, -1, 2**63 - 1, -(2**63)]),
        "int32": st.sampled_from([None, 0, -1, 2**31 - 1]),
        "double": st.sampled_from([None, 0.0, -1.0, float("nan"), float("inf"), 1e300]),
        "time": st.sampled_from([None, datetime.datetime(1, 1, 1), datetime.datetime(9999, 12, 31), START]),
    }
    names = {"string": "text", "timestamp[us]": "time"}
    for _ in range(3):
        field = data.draw(st.sampled_from(list(COLUMNS[TRANSACTIONS])))
        rows[data.draw(st.integers(0, len(rows) - 1))][field.name] = data.draw(
            values[names.get(str(field.type), str(field.type))]
        )
    try:
        made = read(write(tmp_path_factory.mktemp("fuzz"), rows))
    except InputError as e:
        assert "\n" not in str(e)
    else:
        account = made.quality["rows"][TRANSACTIONS]
        assert account["in"] == account["kept"] + sum(account["dropped"].values())
        events, items, users = (made.tables[name] for name in ("events", "items", "users"))
        assert account["kept"] == len(events)
        assert set(events["item_id"].to_pylist()) == set(items["item_id"].to_pylist())
        assert set(events["user_id"].to_pylist()) == set(users["user_id"].to_pylist())
        assert pc.all(pc.greater(items["price"], 0)).as_py()


@pytest.mark.real_data
@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL}: no Online Retail there; set UNISC_REAL_DATA to its parent")
def test_real_log_is_accounted_for_to_the_line(tmp_path):
    made = convert(ADAPTER, REAL, tmp_path / "made")
    quality = made["quality"]
    assert quality["rows"][TRANSACTIONS] == {
        "in": 541_909,
        "kept": 386_250,
        "dropped": {
            "no customer": 135_080,
            "cancellation": 8_905,
            "stock code is no product": 1_554,
            "price is not positive": 33,
            "repeats a purchase of this customer, product and minute": 10_087,
        },
    }
    events, items, users = (pq.read_table(tmp_path / "made" / name) for name in ("events", "items", "users"))
    assert len(events) == 386_250
    assert len(users) + quality["customers of no purchase"] == 4_372
    assert len(items) + quality["stock codes of no purchase"] == 4_070
    assert quality["items without a title"] == 0
    first, last = pc.min_max(events["ts"]).as_py().values()
    assert first == T0
    assert datetime.datetime.fromtimestamp(last, datetime.UTC).date() == datetime.date(2011, 12, 9)
    in_test = pc.sum(pc.greater_equal(events["ts"], made["test_start"])).as_py()
    assert 0.1 <= in_test / len(events) < 0.101
