"""Qilin (Xiaohongshu, SIGIR 2025): searches and recommendation pages of the same users, with the notes shown, as log tables.
 Source: RED-Search/Qilin and huggingface.co/datasets/THUIR/Qilin; described in arXiv 2503.00501. No licence file was found:
use it inside, never pass it on. Ten rows of each file, as CSV, were at hand ("toy data"): the tests read them where they
are there. The release itself is Parquet in folders of the same names; it is read through the same code, but none of it was
at hand.

What a row means, and where it goes:

- `*search_train.csv`, `*search_test.csv` (or `search_train/*.parquet`...): one search, keyed by `search_idx`: a request of
  domain "search" with its `query`; `scene` is `query_from_type`, a number the source does not explain.
- `*recommendation_train.csv`, `*recommendation_test.csv`: one page of the feed, keyed by `request_idx`: a request of domain
  "rec".
- their `..._result_details_with_idx`: the notes shown, each with `position` (from 1; ours from 0), its own time (searches in
  seconds, the feed in milliseconds) and whether it was clicked. A note shown more than once is one candidate, the first time;
  each of its clicks stays. `rank` is the order of the times, then of the positions.
- `*notes.csv`: `title` from `note_title`, `category_1..3` from the three taxonomy ids.
- `*user_feat.csv`: `segment` codes gender, platform and age together.

Times. A request's pages load as the user scrolls, so its notes have several times; some lists span hours or days (counted).
The request's time is the first of them, so its features know nothing of what came between; a click's time is its note's, a
lower bound. A click may thus stand in the history of a request made while its note was on the screen: by seconds, before it
happened.

Split. The source gives separate files. `test_start` is the time that puts the fewest requests on the wrong side of their files
(counted; the smallest such time). Without test files it is set by `test_share`, the last share of the searches by time.

Certain from the sample: names, forms and units above. Assumed: one space of `search_idx` for both splits, and of
`request_idx`; a note without features, or a user, is kept with unknown ones (0, empty title), as almost all of the sample's
are.

Left out: like, collect, comment, share (no event kinds of ours; counted), watch times, `recent_clicked_note_idxs` (clicks
without times), results of other rankers (`bm25_results`, `dpr_results`: not what the app considered), embeddings, counts of
notes and dense features of users (of no stated time, so perhaps of the future), the answers file (`dqa`)."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from data_gen.public import delimited, listed
from data_gen.public.adapter import Adapter, Converted
from data_gen.public.delimited import needed
from data_gen.public.qilin_source import Form, Requests, read_parquet
from unisc.errors import InputError

DOMAINS = ("search", "rec")
SEARCH = Form(
    domain="search",
    key="search_idx",
    details="search_result_details_with_idx",
    time="search_timestamp",
    per_second=1,
    columns=pa.schema(
        [
            needed("search_idx", pa.int64()),
            needed("user_idx", pa.int64()),
            ("query", pa.string()),
            ("query_from_type", pa.float64()),
            needed("search_result_details_with_idx", pa.string()),
        ]
    ),
)
FEED = Form(
    domain="rec",
    key="request_idx",
    details="rec_result_details_with_idx",
    time="request_timestamp",
    per_second=1000,
    columns=pa.schema(
        [
            needed("request_idx", pa.int64()),
            needed("user_idx", pa.int64()),
            needed("rec_result_details_with_idx", pa.string()),
        ]
    ),
)
_NOTES = pa.schema(
    [needed("note_idx", pa.int64()), ("note_title", pa.string()), *((f"taxonomy{i}_id", pa.string()) for i in (1, 2, 3))]
)
_USERS = pa.schema([needed("user_idx", pa.int64()), *((name, pa.string()) for name in ("gender", "platform", "age"))])
_FORMS = {"search_train": SEARCH, "search_test": SEARCH, "recommendation_train": FEED, "recommendation_test": FEED}
COLUMNS = {
    **{f"*{name}.csv": form.columns for name, form in _FORMS.items()},
    "*notes.csv": _NOTES,
    "*user_feat.csv": _USERS,
}


def read(path: Path, *, test_share: float = 0.1) -> Converted:
    """Read a folder of Qilin's files; only the searches to train on must be there.

    Raises:
      InputError: a file or column missing, a value that does not convert or a list that cannot be read, named by file, column
        and row; a folder without usable searches; a share that leaves a split empty.
    """
    requests = Requests()
    for name, form in _FORMS.items():
        requests.add(_find(path, name, needed=name == "search_train"), form, name, test=name.endswith("_test"))
    if DOMAINS[0] not in requests.lists["domain"]:
        raise InputError(f"{path}: holds no search with a usable result; give Qilin's search files")
    notes, note_rows = _features(path, "notes", _NOTES)
    people, people_rows = _features(path, "user_feat", _USERS)
    types = {"user": pa.int64(), "ts": pa.int64(), "domain": pa.string(), "query": pa.string(), "scene": pa.int32()}
    lists = pa.table({c: pa.array(requests.lists[c], t) for c, t in types.items()})
    entries, events = _entries(requests, lists)
    tables, unknown = listed.log_tables(
        lists=lists, entries=listed.without_repeats(entries), events=events, items=_notes(notes), users=_people(people)
    )
    test_start, wrong = _test_start(requests, test_share)
    accounts = {name: listed.account(requests.rows[name], requests.dropped[name]) for name in _FORMS}
    for domain in DOMAINS:
        name = f"{domain} entries"
        accounts[name] = listed.account(requests.num_entries[domain], requests.dropped.get(name, {}))
    return Converted(
        tables=tables,
        domains=DOMAINS,
        test_start=test_start,
        end_ts=listed.end_of(tables),
        quality={
            "rows": {
                **accounts,
                "notes": listed.account(note_rows, {"repeats a note_idx": note_rows - len(notes)}),
                "user_feat": listed.account(people_rows, {"repeats a user_idx": people_rows - len(people)}),
            },
            "actions_left_out": dict(sorted(requests.actions.items())),
            "lists that span more than an hour": requests.num_long,
            "requests on the other side of test_start than their file": wrong,
            "test_share": None if any(requests.lists["test"]) else test_share,
            **unknown,
        },
    )


def _find(path: Path, name: str, *, needed: bool = False) -> list[Path]:
    return delimited.find(path, f"*{name}.csv", f"{name}/*.parquet", needed=needed)


def _features(path: Path, name: str, columns: pa.Schema) -> tuple[pa.Table, int]:
    """The first row of each key, and the number of all rows."""
    parts = [
        read_parquet(f, columns) if f.suffix == ".parquet" else delimited.read(f, columns).table for f in _find(path, name)
    ]
    table = pa.concat_tables(parts) if parts else columns.empty_table()
    return table.take(listed.firsts(table[columns.names[0]])), len(table)


def _entries(requests: Requests, lists: pa.Table) -> tuple[pa.Table, pa.Table]:
    found = requests.entries
    of, item = np.array(found["list"], np.int64), np.array(found["item"], np.int64)
    clicked = np.flatnonzero(np.array(found["click"], bool))
    entries = pa.table(
        {"list": of, "item": item, "exposed": np.ones(len(of), bool), "position": pa.array(found["position"], pa.int16())}
    )
    events = {
        "user": lists["user"].take(of[clicked]),
        "item": item[clicked],
        "ts": np.array(found["ms"], np.int64)[clicked] // 1000,
        "domain": lists["domain"].take(of[clicked]),
        "kind": pa.repeat("click", len(clicked)),
        "list": of[clicked],
    }
    return entries, pa.table(events)


def _test_start(requests: Requests, share: float) -> tuple[int, int]:
    """The first second of the test split, and how many requests lie on the other side of it than their file says."""
    ts, test = np.array(requests.lists["ts"], np.int64), np.array(requests.lists["test"], bool)
    if not test.any():
        return listed.choose_test_start(ts[np.array(requests.lists["domain"]) == DOMAINS[0]], share), 0
    order = np.argsort(ts, kind="stable")
    starts = np.flatnonzero(np.diff(ts[order], prepend=-1))
    early = np.concatenate([[0], np.cumsum(test[order])])[starts]
    late = (~test).sum() - np.concatenate([[0], np.cumsum(~test[order])])[starts]
    best = int(np.argmin(early + late))
    return int(ts[order][starts[best]]), int((early + late)[best])


def _notes(rows: pa.Table) -> pa.Table:
    paths = listed.category_codes(*(rows[f"taxonomy{level}_id"] for level in (1, 2, 3)))
    codes = {f"category_{level}": path for level, path in enumerate(paths, 1)}
    return pa.table({"item": rows["note_idx"], **codes, "title": rows["note_title"]})


def _people(rows: pa.Table) -> pa.Table:
    return pa.table(
        {"user": rows["user_idx"], "segment": listed.category_codes(rows["gender"], rows["platform"], rows["age"])[2]}
    )


ADAPTER = Adapter(
    name="qilin",
    title="Qilin: searches and feed pages of Xiaohongshu",
    source="https://huggingface.co/datasets/THUIR/Qilin",
    licence="none stated",
    gives=(
        "searches with text and the notes shown, their slots, times and clicks",
        "feed pages of the same users, the same way",
        "titles and three category levels of notes; one user persona",
    ),
    cannot_give=(
        "unexposed candidates: only what was shown is logged",
        "times of clicks: they share the time their note was shown",
        "carts, purchases, prices, brands, shops: a community of notes has none",
        "times of the clicks before a request that rows list",
    ),
    columns=COLUMNS,
    read=read,
)
