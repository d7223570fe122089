"""Online Retail (Chen, Sain, Guo 2012, UCI): a year of a British gift shop's invoices, as purchases.

Source: archive.ics.uci.edu/dataset/352, read as one Parquet file with the source's eight columns. Licence CC BY 4.0 by the
UCI repository's page.

What a row means, and where it goes: one line of an invoice, so many of one stock code sold at one unit price. A line counts
when it sold a product to a known customer; it becomes

- `events`: a purchase of the one domain "shop" at `InvoiceDate`. What a customer bought of one stock code in the same minute
  is one event, whatever the quantity;
- `items`: `StockCode`, numbered in the order of the codes, with `title` and `price` (pounds) from `Description` and
  `UnitPrice` of its first purchase: nothing later in the log is in them;
- `users`: `CustomerID`, with `segment`, a code of `Country` on the first purchase.

Every other line is left out under the first of these that applies: the customer is null; the invoice is a cancellation
(`InvoiceNo` begins with C); the quantity is not positive; the stock code is no product (postage, carriage, discounts, manual
entries, fees: all that neither begins with five digits nor with DCGS; counted by code); the price is not positive.

Certain from the source: the columns, and that C marks a cancellation. Assumed: times have no zone and are taken as UTC (in
summer British clocks are an hour ahead); codes that differ in case are different products; which codes are products. A
purchase that was cancelled later stays: it had happened, and the source does not say which line a cancellation undoes.

There are no impressions, no clicks, no carts and no queries: no lists, so nothing that ES3 could expand."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_gen.public import listed, parquet
from data_gen.public.adapter import Adapter, Converted
from data_gen.public.delimited import Source, needed
from unisc.data.schema import EVENTS, ITEMS, USERS
from unisc.errors import InputError

DOMAINS = ("shop",)
TRANSACTIONS = "transactions.parquet"
COLUMNS = {
    TRANSACTIONS: pa.schema(
        [
            needed("InvoiceNo", pa.string()),
            needed("StockCode", pa.string()),
            ("Description", pa.string()),
            needed("Quantity", pa.int64()),
            needed("InvoiceDate", pa.timestamp("us")),
            needed("UnitPrice", pa.float64()),
            ("CustomerID", pa.int32()),
            ("Country", pa.string()),
        ]
    )
}
_PRODUCT = r"^(\d{5}|DCGS)"


def read(path: Path, *, test_share: float = 0.1) -> Converted:
    """Read a folder with `transactions.parquet`. `test_share` of the purchases, the last by time, are test.

    Raises:
      InputError: a file or column missing, a null or a time that is none, named by file, column and row; no purchase at all; a
        share that leaves a split empty.
    """
    source = parquet.read(path / TRANSACTIONS, COLUMNS[TRANSACTIONS])
    parquet.refuse_negative(source, "CustomerID")
    ts = parquet.unix_seconds(source, "InvoiceDate")
    if (endless := np.abs(source["UnitPrice"].to_numpy()) > np.finfo(np.float32).max).any():
        source.fail("UnitPrice", endless, "no price")
    reasons, dropped = _reasons(source), {}
    kept = np.ones(len(source), bool)
    for reason, applies in reasons.items():
        dropped[reason] = (kept & applies).sum()
        kept &= ~applies
    if not kept.any():
        raise InputError(f"{source.file}: holds no purchase of a product by a known customer; give a log with at least two")
    lines = source.table.append_column("ts", pa.array(ts)).filter(pa.array(kept))
    lines = lines.take(pc.sort_indices(lines, [(name, "ascending") for name in ("ts", "CustomerID", "StockCode", "InvoiceNo")]))
    (item,), codes = listed.dense(lines["StockCode"])
    (user,), customers = listed.dense(lines["CustomerID"])
    first = ~_repeats(lines["ts"].to_numpy(), user, item)
    events, event_item, event_user = lines.filter(pa.array(first)), item[first], user[first]
    of_item, of_user = (np.unique(ids, return_index=True)[1] for ids in (event_item, event_user))
    tables = {
        ITEMS.name: listed.declared(
            ITEMS,
            {
                "item_id": np.arange(len(codes)),
                "price": pa.array(events["UnitPrice"].to_numpy()[of_item], pa.float32()),
                "title": pc.utf8_trim_whitespace(pc.fill_null(events["Description"].take(of_item), "")),
            },
        ),
        USERS.name: listed.declared(
            USERS, {"user_id": np.arange(len(customers)), "segment": listed.coded(events["Country"].take(of_user))}
        ),
        EVENTS.name: listed.declared(
            EVENTS,
            {
                "user_id": event_user,
                "item_id": event_item,
                "ts": events["ts"],
                "domain": pa.repeat(DOMAINS[0], len(events)),
                "kind": pa.repeat("purchase", len(events)),
            },
        ),
    }
    dropped["repeats a purchase of this customer, product and minute"] = len(lines) - len(events)
    no_product = source["StockCode"].filter(pa.array(reasons["stock code is no product"]))
    return Converted(
        tables=tables,
        domains=DOMAINS,
        test_start=listed.choose_test_start(events["ts"].to_numpy(), test_share),
        end_ts=int(events["ts"].to_numpy()[-1]) + 1,
        quality={
            "rows": {TRANSACTIONS: listed.account(len(source), dropped)},
            "stock codes that are no product": {
                v["values"]: v["counts"] for v in sorted(pc.value_counts(no_product).to_pylist(), key=lambda v: v["values"])
            },
            "customers of no purchase": pc.count_distinct(source["CustomerID"]).as_py() - len(customers),
            "stock codes of no purchase": pc.count_distinct(source["StockCode"]).as_py() - len(codes),
            "customers of several countries": _with_several(user, lines["Country"]),
            "items without a title": int(pc.sum(pc.equal(tables[ITEMS.name]["title"], "")).as_py()),
            "test_share": test_share,
        },
    )


def _reasons(source: Source) -> dict[str, np.ndarray]:
    masks = {
        "no customer": pc.is_null(source["CustomerID"]),
        "cancellation": pc.starts_with(source["InvoiceNo"], "C"),
        "quantity is not positive": pc.less_equal(source["Quantity"], 0),
        "stock code is no product": pc.invert(pc.match_substring_regex(source["StockCode"], _PRODUCT)),
        "price is not positive": pc.less_equal(source["UnitPrice"], 0),
    }
    return {reason: np.asarray(mask) for reason, mask in masks.items()}


def _repeats(*sorted_keys: np.ndarray) -> np.ndarray:
    """Mask of the rows whose keys equal those of the row before."""
    same = np.ones(len(sorted_keys[0]), bool)
    same[0] = False
    for key in sorted_keys:
        same[1:] &= key[1:] == key[:-1]
    return same


def _with_several(user: np.ndarray, country: pa.ChunkedArray) -> int:
    pairs = np.unique(np.stack([user, listed.coded(country)]), axis=1)
    return int((np.bincount(pairs[0]) > 1).sum())


ADAPTER = Adapter(
    name="online_retail",
    title="Online Retail: a year of a gift shop's purchases",
    source="https://archive.ics.uci.edu/dataset/352/online+retail",
    licence="CC BY 4.0 (page of the UCI repository)",
    gives=(
        "purchases with times and customers",
        "product names, and the unit price of the first purchase",
        "the customer's country",
    ),
    cannot_give=(
        "impressions, lists and slots: only what was bought is known",
        "clicks, carts, searches and queries",
        "categories, brands and other domains",
        "which purchase a cancellation undoes",
    ),
    columns=COLUMNS,
    read=read,
)
