"""RetailRocket (2015): what visitors of a shop viewed, put into the cart and bought, as events without lists.

Source: kaggle.com/datasets/retailrocket/ecommerce-dataset, CC BY-NC-SA 4.0; a subset as a benchmark for several behaviours in
HKUDS/SSLRec (`multi_behavior/retail_rocket`, Apache-2.0 for the code; the data's own licence stays). Both forms are read:

- the subset as `interactions.parquet` (user, item, behavior, timestamp in unix seconds) and `test_buy.parquet` (user, item);
- the original's `events.csv` (timestamp in unix milliseconds, visitorid, event, itemid, transactionid), plain or as .gz.

What a row means, and where it goes:

- a view, cart ("addtocart") or buy ("transaction") is an event of kind click, cart or purchase in the one domain "shop". A view
  is a visit of the item's page, which is what a click on it in a list leads to; where the visitor came from was not logged.
- a row of `test_buy.parquet` is a row of the table `interactions` with split "test": the purchase the benchmark hides, one a
  user. It has no time, so it is no event.
- items and users have an id and nothing else; ids are numbered in the order of the source's (in the subset they are the same).

Certain from the files: the columns and their values. The subset has one row a pair and behaviour, so the events behind it are
fewer than happened, and which of them the time belongs to is not stated: about a fifth of the bought pairs with a view have it
after the purchase. A row equal to another in user, item, behaviour and second is the same event; such rows are counted. Left
out: the number of a transaction, and the original's item properties and category tree, which have values at several times
each while the table `items` has one.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_gen.public import delimited, listed, parquet
from data_gen.public.adapter import INTERACTIONS, Adapter, Converted
from data_gen.public.delimited import Source, needed
from unisc.data.schema import EVENTS, ITEMS, KINDS, USERS
from unisc.errors import InputError

DOMAINS = ("shop",)
SUBSET, TEST, ORIGINAL = "interactions.parquet", "test_buy.parquet", "events.csv"
BEHAVIOURS = {"view": "click", "cart": "cart", "buy": "purchase", "addtocart": "cart", "transaction": "purchase"}
"""Names in either form for the kinds of the log tables."""

_PAIR = [needed("user", pa.int64()), needed("item", pa.int64())]
COLUMNS = {
    SUBSET: pa.schema([*_PAIR, needed("behavior", pa.string()), needed("timestamp", pa.int64())]),
    TEST: pa.schema(_PAIR),
    ORIGINAL: pa.schema(
        [
            needed("timestamp", pa.int64()),
            needed("visitorid", pa.int64()),
            needed("event", pa.string()),
            needed("itemid", pa.int64()),
        ]
    ),
}


def read(path: Path) -> Converted:
    """Read a folder that holds either form.

    Raises:
      InputError: none of the forms or both, a file or column missing, a value that does not convert, an unknown behaviour or a
        time that is none, named by file, column and row.
    """
    original = delimited.find(path, ORIGINAL, needed=False)
    if original and (path / SUBSET).exists():
        raise InputError(f"{path}: holds {SUBSET} and {original[0].name}, and one is made of the other; give a folder with one")
    if original:
        rows, hidden = delimited.read(original[0], COLUMNS[ORIGINAL]), None
        user, item, behaviour, per_second = "visitorid", "itemid", "event", 1000
    else:
        rows, hidden = parquet.read(path / SUBSET, COLUMNS[SUBSET]), parquet.read(path / TEST, COLUMNS[TEST])
        user, item, behaviour, per_second = "user", "item", "behavior", 1
    rows.refuse_empty()
    (users, *test_users), known_users = listed.dense(rows[user], *([hidden["user"]] if hidden else []))
    (items, *test_items), known_items = listed.dense(rows[item], *([hidden["item"]] if hidden else []))
    told = np.stack([rows.seconds("timestamp", per_second=per_second), users, items, _kinds(rows, behaviour)])
    ts, event_user, event_item, kind = events = np.unique(told, axis=1)
    tables = {
        ITEMS.name: listed.declared(ITEMS, {"item_id": np.arange(len(known_items))}),
        USERS.name: listed.declared(USERS, {"user_id": np.arange(len(known_users))}),
        EVENTS.name: listed.declared(
            EVENTS,
            {
                "user_id": event_user,
                "item_id": event_item,
                "ts": ts,
                "domain": pa.repeat(DOMAINS[0], len(ts)),
                "kind": pa.array(KINDS).take(pa.array(kind)),
            },
        ),
    }
    counts: dict[str, Any] = {
        rows.file.name: listed.account(len(rows), {"repeats an event of its second": len(rows) - len(ts)})
    }
    quality: dict[str, Any] = {"rows": counts}
    if hidden:
        pairs = np.unique(np.stack([test_users[0], test_items[0]]), axis=1)
        tables[INTERACTIONS.name] = listed.declared(
            INTERACTIONS, {"user_id": pairs[0], "item_id": pairs[1], "split": pa.repeat("test", pairs.shape[1])}
        )
        counts[TEST] = listed.account(len(hidden), {"repeats a pair": len(hidden) - pairs.shape[1]})
        seen = set(zip(events[1].tolist(), events[2].tolist(), strict=True))
        quality["test purchases of a pair with events"] = sum(pair in seen for pair in zip(*pairs.tolist(), strict=True))
        quality["items in no event"] = len(known_items) - len(np.unique(items))
    return Converted(tables=tables, domains=DOMAINS, end_ts=int(ts.max()) + 1, quality=quality)


def _kinds(rows: Source, name: str) -> np.ndarray:
    """Places in KINDS."""
    place = pc.index_in(rows[name], value_set=pa.array(BEHAVIOURS))
    if place.null_count:
        rows.fail(name, pc.is_null(place), f"not one of {', '.join(BEHAVIOURS)}")
    return np.array([KINDS.index(kind) for kind in BEHAVIOURS.values()])[place.to_numpy()]


ADAPTER = Adapter(
    name="retailrocket",
    title="RetailRocket: views, carts and purchases of a shop's visitors",
    source="https://www.kaggle.com/datasets/retailrocket/ecommerce-dataset",
    licence="CC BY-NC-SA 4.0",
    gives=(
        "views of item pages, carts and purchases with times",
        "the benchmark's hidden purchases, one a user, without time (subset only)",
    ),
    cannot_give=(
        "requests, lists, impressions and slots: what was shown was not logged",
        "searches, queries and where a view came from",
        "repeated actions on an item (subset only: one row a pair and behaviour)",
        "prices, titles, categories: item properties are hashed and change over time",
        "times of the hidden purchases",
    ),
    columns=COLUMNS,
    read=read,
)
