"""JDsearch (JD.com, SIGIR 2023): one product search a user with the list shown, and a year of that user's actions before it.
 Source: rucliujn/JDsearch, described in its `README.md` at 031f7772 and in arXiv 2305.14810. Licence of the data CC
BY-NC-SA 4.0 (of the repository: Apache-2.0). A sample of three users and 409 products was at hand: the tests read it where
it is there.

What a row means, and where it goes:

- `*user_behavior_data*.txt` (or `release_data*.txt`), tab separated: one user with one "test query", the products shown for
  it, a label for each (0 none, 1 click, 2 cart, 3 purchase), and the history: products with the query they were found by
  (-1: without one), the action, and the time since the action before. It becomes one row of `ranked_lists`, its user
  numbered by the row.
- `*product_meta_data*.txt` (or `product_data*.txt`): `title` from the anonymised words of `name`, `category_1..3` from the
  first three category levels, `brand_id` and `shop_id`. Products without a row keep unknown features (0, empty title); the
  source says that there are such.
- `queries` holds the words of the test queries and of the histories' queries, joined by spaces.

Why not log tables. The source has no clock: times are intervals within one user's history (the last is the one before the
test query), and nothing says when that query was made. Ages before the query are exact, two users cannot be put in order,
and there is no day to split at; ES3 needs all of this, so its tables are not made. Nor are there lists for any query but
the last.

Certain from the source: all of the above, the separators (`_` between entries, character 24 between words), and that a
history may hold several actions of one query. Certain from the sample: files have a header row; files without one are read
as well. Assumed: intervals are in seconds (the sample's longest history then spans 351 days, and the source states one
year); one row is one user; the order of products in a list means nothing that the source states.

Left out: follows (FLW, no event kind of ours; counted, and the time they took stays in the ages of what came before), the
fourth category level, names of brands and categories. All rows are the source's test split; it trains on the histories."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_gen.public import delimited, listed
from data_gen.public.adapter import RANKED_LISTS, Adapter, Converted
from data_gen.public.delimited import Source, needed
from unisc.data.schema import ITEMS, QUERIES, USERS
from unisc.errors import InputError

BEHAVIOUR, PRODUCTS = "*user_behavior_data*.txt", "*product_meta_data*.txt"
_OTHER_NAMES = {BEHAVIOUR: "release_data*.txt", PRODUCTS: "product_data*.txt"}
_HISTORY = ("history_qry_list", "history_wid_list", "history_type_list", "history_time_list")
COLUMNS = {
    BEHAVIOUR: pa.schema(
        [
            needed("query", pa.string()),
            needed("candidate_wid_list", pa.string()),
            needed("candidate_label_list", pa.string()),
            *((name, pa.string()) for name in _HISTORY),
        ]
    ),
    PRODUCTS: pa.schema(
        [
            needed("wid", pa.int64()),
            ("name", pa.string()),
            ("brand_id", pa.int64()),
            *((f"cate_id_{level}", pa.int64()) for level in (1, 2, 3)),
            ("shop_id", pa.int64()),
        ]
    ),
}
_NAMES = {
    BEHAVIOUR: COLUMNS[BEHAVIOUR].names,
    PRODUCTS: [
        "wid",
        "name",
        "brand_id",
        "brand_name",
        *(f"cate_{x}_{i}" for i in range(1, 5) for x in ("id", "name")),
        "shop_id",
    ],
}
_ACTIONS = ("CLICK", "CART", "ORD")
"""The source's words for KINDS, in their order."""
_WORD_END = "\x18"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Flat:
    """Lists of one column end to end: row i has `flat[bounds[i]:bounds[i + 1]]`."""

    flat: pa.Array
    bounds: np.ndarray

    def numbers(self) -> pa.Array:
        return self.flat.cast(pa.int64())

    @property
    def row(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.bounds) - 1), np.diff(self.bounds))


def read(path: Path) -> Converted:
    """Read a folder of JDsearch's two files, plain or as .gz.

    Raises:
      InputError: a file or column missing, lists of one row that differ in length, a value that is not of its form, named by
        file, column and row; a file without rows.
    """
    behaviour, products = (_read(path, pattern) for pattern in COLUMNS)
    behaviour.refuse_empty()
    shown = _lists(behaviour, "candidate_wid_list", r"\d{1,18}")
    labels = _lists(behaviour, "candidate_label_list", r"[0-3](\.0)?", like=shown)
    past = _lists(behaviour, "history_wid_list", r"\d{1,18}")
    asked = _lists(behaviour, "history_qry_list", rf"(-1|\d+({_WORD_END}\d+)*)", like=past)
    types = _lists(behaviour, "history_type_list", "[A-Z]+", like=past)
    since = _lists(behaviour, "history_time_list", r"\d{1,12}", like=past, more=1)

    product_rows = products.table.take(listed.firsts(products["wid"]))
    (item, past_item, _), known = listed.dense(shown.numbers(), past.numbers(), product_rows["wid"])
    asked_words = pc.if_else(pc.equal(asked.flat, "-1"), pa.scalar(None, pa.string()), asked.flat)
    (query, past_query), texts = listed.dense(behaviour["query"], asked_words)
    kind = pc.fill_null(pc.index_in(types.flat, value_set=pa.array(_ACTIONS)), -1).to_numpy(zero_copy_only=False)
    first, label = _strongest(shown.row, item, pc.utf8_slice_codeunits(labels.flat, 0, 1).cast(pa.int8()).to_numpy())
    recent = _recent_first(past.row, kind >= 0)
    bounds = {"": _bounds(shown.row[first], len(behaviour)), "history_": _bounds(past.row[recent], len(behaviour))}
    columns = {
        "item_ids": item[first],
        "labels": label,
        "history_item_ids": past_item[recent],
        "history_kinds": kind[recent],
        "history_query_ids": past_query[recent],
        "history_ages": _ages(past, since)[recent],
    }
    lists: dict[str, Any] = {
        "list_id": np.arange(len(behaviour)),
        "user_id": np.arange(len(behaviour)),
        "query_id": query,
        "split": pa.repeat("test", len(behaviour)),
    }
    for name, flat in columns.items():
        lists[name] = pa.ListArray.from_arrays(bounds["history_" if name.startswith("history_") else ""], pa.array(flat))
    unfit = dict(sorted(Counter(types.flat.filter(pa.array(kind < 0)).to_pylist()).items()))
    return Converted(
        tables={
            RANKED_LISTS.name: listed.declared(RANKED_LISTS, lists),
            QUERIES.name: listed.declared(QUERIES, {"query_id": np.arange(len(texts)), "text": _spaced(texts)}),
            USERS.name: listed.declared(USERS, {"user_id": np.arange(len(behaviour))}),
            ITEMS.name: listed.declared(
                ITEMS, {"item_id": np.arange(len(known)), **listed.features(_products(product_rows), "item", known)}
            ),
        },
        quality={
            "rows": {
                "behaviour": listed.account(len(behaviour), {}),
                "products": listed.account(len(products), {"repeats a wid": len(products) - len(product_rows)}),
                "candidates": listed.account(len(item), {"repeats a product of its list": len(item) - len(first)}),
                "history": listed.account(len(past_item), {f"action {name}": n for name, n in unfit.items()}),
            },
            "items without features": len(known) - len(product_rows),
            "lists without a positive": len(behaviour) - len(np.unique(shown.row[first][label > 0])),
        },
    )


def _read(path: Path, pattern: str) -> Source:
    files = delimited.find(path, pattern, _OTHER_NAMES[pattern])
    if len(files) > 1:
        raise InputError(f"{files[1]}: lies beside {files[0].name}, which holds the same table; remove one of them")
    form = {"delimiter": "\t", "quoted": False}
    header = delimited.first_row(files[0], **form)
    # The documentation shows no header row, the published sample has one.
    names = None if header[0] in _NAMES[pattern] else _NAMES[pattern]
    return delimited.read(files[0], COLUMNS[pattern], names=names, **form)


def _lists(source: Source, name: str, form: str, *, like: _Flat | None = None, more: int = 0) -> _Flat:
    """Split a column at "_"; every entry must have the form, every list `more` entries than the same row of `like`."""
    column = source[name].combine_chunks()
    empty = pc.fill_null(pc.equal(column, ""), True)
    good = pc.or_(empty, pc.fill_null(pc.match_substring_regex(column, f"^({form})(_({form}))*$"), False))
    if not pc.all(good).as_py():
        source.fail(name, pc.invert(good), "not a list of its form, joined by _")
    split = pc.if_else(empty, pa.scalar([], pa.list_(pa.string())), pc.split_pattern(column, "_"))
    lengths = pc.list_value_length(split).to_numpy()
    if like is not None and np.any(wrong := lengths != np.diff(like.bounds) + more):
        source.fail(name, wrong, "a list of another length than the row's other lists want")
    return _Flat(flat=pc.list_flatten(split), bounds=np.concatenate([[0], np.cumsum(lengths)]))


def _strongest(row: np.ndarray, item: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of the first entry of each (row, item), and the strongest label of its repeats."""
    order = np.lexsort((np.arange(len(row)), item, row))
    new = np.flatnonzero((np.diff(row[order], prepend=-1) != 0) | (np.diff(item[order], prepend=-1) != 0))
    first, strongest = order[new], np.maximum.reduceat(label[order], new) if len(new) else label
    back = np.argsort(first)
    return first[back], strongest[back]


def _recent_first(row: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Places of the kept entries, row by row, each row's last entry first."""
    kept = np.flatnonzero(keep)
    return kept[np.lexsort((-kept, row[kept]))]


def _bounds(row: np.ndarray, rows: int) -> pa.Array:
    return pa.array(np.searchsorted(row, np.arange(rows + 1)), pa.int32())


def _ages(past: _Flat, since: _Flat) -> np.ndarray:
    """Seconds from each action of the histories to the row's test query, which ends the row's intervals."""
    clock = np.cumsum(since.numbers().to_numpy())
    return clock[since.bounds[1:] - 1][past.row] - clock[np.arange(len(past.flat)) + past.row]


def _products(rows: pa.Table) -> pa.Table:
    def known(name: str) -> pa.ChunkedArray:
        return pc.if_else(pc.greater_equal(rows[name], 0), rows[name], pa.scalar(None, pa.int64()))

    paths = listed.category_codes(*(known(f"cate_id_{level}") for level in (1, 2, 3)))
    return pa.table(
        {
            "item": rows["wid"],
            **{f"category_{level}": path for level, path in enumerate(paths, 1)},
            "brand_id": listed.coded(known("brand_id")),
            "shop_id": listed.coded(known("shop_id")),
            "title": _spaced(rows["name"]),
        }
    )


def _spaced(words: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    return pc.replace_substring(words, _WORD_END, " ")


ADAPTER = Adapter(
    name="jdsearch",
    title="JDsearch: one personalised product search a user, with a year of history",
    source="https://github.com/rucliujn/JDsearch",
    licence="CC BY-NC-SA 4.0",
    gives=(
        "one search a user: anonymised words, the products shown, click, cart or purchase of each",
        "the user's clicks, carts and purchases of the year before, with their queries and ages",
        "product words, categories (three levels), brands, shops",
    ),
    cannot_give=(
        "times: only intervals within a user are known, so no log tables, no split by time and nothing for ES3",
        "lists of any search but the user's last; feed lists",
        "unexposed candidates and slots",
        "prices",
    ),
    columns=COLUMNS,
    read=read,
)
