"""KuaiSAR (Kuaishou, 2023): searches with the results shown, and the feed of the same users, as log tables.
 Source: zenodo.org/record/8181109 (KuaiSAR_v2.zip, or KuaiSAR.zip for the small form); described in Ethan00Si/KuaiSAR
`README.md` and `pages/decriptions.md` at 2272abb6, and in arXiv 2306.07705. Licence CC BY-NC-SA 4.0. Nothing of it is
shipped or was at hand: the schema below is the published one, and the tests generate files of exactly that schema.

What a row means, and where it goes:

- `src_inter.csv`: one result shown in one search session. Rows of one user and `search_session_id` are one request of domain
  "search"; its time is `search_session_timestamp`, its query the anonymised words of `keyword` joined by spaces, its `scene` a
  code of `search_source`. A result with `click_cnt` above 0 is one click, however large the count.
- `rec_inter.csv`: one video shown in the feed, with `click`. It becomes an entry of a request of domain "rec"; see below.
- `item_features.csv`: `category_1..3` from the first three category levels (ids of 0 or less are the source's "empty"),
  `shop_id` from `author_id` (who offers the item; 0 is padding), `title` from the words of `caption`, `created_ts` from
  `upload_time` (a day in Beijing; padding and unknown are 0).
- `user_features.csv`: `segment` is a code of the pair (`onehot_feat1`, `onehot_feat2`). The two activity levels are left
  out: they count the active days of "the past month", and if that month reaches into the log they know its future.

Certain from the source: column names, types and meaning; times in unix milliseconds; a search without click is kept by it.
Assumed: rows of a session stand in the order shown, which `rank` repeats and `position` therefore does not claim; item ids
mean the same thing for every `item_type` (ids seen with more than one type are counted); the words of keywords and captions
are numbered alike, without which the third level of the query fallback means nothing.

Times. Clicks have no time of their own and take their row's, so a search and its clicks share a second: a click is not its own
past. The feed's log has no requests. By default only videos shown to a user in the very same millisecond form one list, so
most feed lists have one entry and searchification finds no negatives in them. `read(path, feed_gap=seconds)` joins impressions
that follow each other within so many seconds: lists of your assumption, not of the source.

Left out: forward, like, follow and searches begun from a video (no event kinds of ours; counted), the fourth category level,
category names, upload and item types, the social network.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_gen.public import delimited, listed
from data_gen.public.adapter import Adapter, Converted
from data_gen.public.delimited import Source, needed
from data_gen.public.feed import feed as feed_lists

DOMAINS = ("search", "rec")
SEARCH, FEED, ITEM_FEATURES, USER_FEATURES = "src_inter.csv", "rec_inter.csv", "item_features.csv", "user_features.csv"


COLUMNS = {
    SEARCH: pa.schema(
        [
            needed("user_id", pa.int64()),
            needed("search_session_id", pa.int64()),
            needed("search_session_timestamp", pa.float64()),
            ("keyword", pa.string()),
            ("search_source", pa.string()),
            needed("item_id", pa.int64()),
            needed("click_cnt", pa.int64()),
            ("item_type", pa.string()),
        ]
    ),
    FEED: pa.schema(
        [
            needed("user_id", pa.int64()),
            needed("item_id", pa.int64()),
            needed("timestamp", pa.float64()),
            needed("click", pa.int64()),
            ("forward", pa.int64()),
            ("like", pa.int64()),
            ("follow", pa.int64()),
            ("search", pa.int64()),
        ]
    ),
    ITEM_FEATURES: pa.schema(
        [
            needed("item_id", pa.int64()),
            ("caption", pa.string()),
            ("author_id", pa.int64()),
            ("upload_time", pa.string()),
            ("first_level_category_id", pa.int64()),
            ("second_level_category_id", pa.int64()),
            ("third_level_category_id", pa.int64()),
        ]
    ),
    USER_FEATURES: pa.schema([needed("user_id", pa.int64()), ("onehot_feat1", pa.int64()), ("onehot_feat2", pa.int64())]),
}


def read(path: Path, *, test_share: float = 0.1, feed_gap: int = 0) -> Converted:
    """Read a folder of KuaiSAR's files, plain or as .gz.

    `test_share` of the searches, the last by time, are test. `feed_gap` is in seconds (see above).

    Raises:
      InputError: a file or column missing, a value that does not convert or a time that is none, named by file, column and row;
        a folder without searches; a share that leaves a split empty.
    """
    search, feed, item_rows, user_rows = (
        delimited.read(delimited.find(path, name)[0], schema) for name, schema in COLUMNS.items()
    )
    search.refuse_empty()
    searches, results, search_events, about = _searches(search)
    feeds, shown, feed_events = feed_lists(
        feed, DOMAINS[1], item="item_id", time="timestamp", click="click", gap=feed_gap, offset=len(searches)
    )
    items, users = _items(item_rows), _users(user_rows)
    merged_results, merged_shown = listed.without_repeats(results), listed.without_repeats(shown)
    tables, unknown = listed.log_tables(
        lists=pa.concat_tables([searches, feeds]),
        entries=pa.concat_tables([merged_results, merged_shown]),
        events=pa.concat_tables([search_events, feed_events]),
        items=items,
        users=users,
    )
    actions = ("forward", "like", "follow", "search")
    return Converted(
        tables=tables,
        domains=DOMAINS,
        test_start=listed.choose_test_start(searches["ts"].to_numpy(), test_share),
        end_ts=listed.end_of(tables),
        quality={
            "rows": {
                SEARCH: listed.account(len(search), {"repeats an item of its search": len(results) - len(merged_results)}),
                FEED: listed.account(len(feed), {"repeats an item of its list": len(shown) - len(merged_shown)}),
                ITEM_FEATURES: listed.account(len(item_rows), {"repeats an item_id": len(item_rows) - len(items)}),
                USER_FEATURES: listed.account(len(user_rows), {"repeats a user_id": len(user_rows) - len(users)}),
            },
            "actions_left_out": {name: pc.sum(pc.greater(feed[name], 0), min_count=0).as_py() for name in actions},
            "feed_gap": feed_gap,
            "test_share": test_share,
            **about,
            **unknown,
        },
    )


def _searches(rows: Source) -> tuple[pa.Table, pa.Table, pa.Table, dict[str, int]]:
    """Sessions as lists, their results as entries, clicks as events; and how often rows of one session disagree."""
    user, session = rows["user_id"].to_numpy(), rows["search_session_id"].to_numpy()
    ts = rows.seconds("search_session_timestamp", per_second=1000)
    order = np.lexsort((np.arange(len(rows)), session, user))
    new = (np.diff(user[order], prepend=-1) != 0) | (np.diff(session[order], prepend=-1) != 0)
    new[:1] = True
    firsts = order[new]
    lists = np.empty(len(rows), np.int64)
    lists[order] = np.cumsum(new) - 1
    first_ts = np.minimum.reduceat(ts[order], np.flatnonzero(new))
    words = rows.words("keyword")
    said = listed.coded(words)
    types = (
        pa.table({"item": rows["item_id"], "type": rows["item_type"]}).group_by("item").aggregate([("type", "count_distinct")])
    )
    about = {
        "rows that disagree with their search on time": int((ts != first_ts[lists]).sum()),
        "rows that disagree with their search on keyword": int((said != said[firsts][lists]).sum()),
        "items seen with several item_types": pc.sum(pc.greater(types["type_count_distinct"], 1), min_count=0).as_py(),
    }
    scene = listed.coded(rows["search_source"])[firsts]
    clicked = np.flatnonzero(rows["click_cnt"].to_numpy() > 0)
    return (
        listed.requests(user=user[firsts], ts=first_ts, domain=DOMAINS[0], query=words.take(firsts), scene=scene),
        pa.table({"list": lists, "item": rows["item_id"], "exposed": np.ones(len(rows), bool)}),
        listed.clicks(clicked, user=user, item=rows["item_id"].to_numpy(), ts=ts, domain=DOMAINS[0], lists=lists),
        about,
    )


def _items(rows: Source) -> pa.Table:
    def known(name: str) -> pa.ChunkedArray:
        return pc.if_else(pc.greater(rows[name], 0), rows[name], pa.scalar(None, pa.int64()))

    first, second, third = listed.category_codes(
        *(known(f"{level}_level_category_id") for level in ("first", "second", "third"))
    )
    return pa.table(
        {
            "item": rows["item_id"],
            "category_1": first,
            "category_2": second,
            "category_3": third,
            "shop_id": listed.coded(known("author_id")),
            "title": rows.words("caption"),
            "created_ts": rows.beijing_days("upload_time"),
        }
    ).take(listed.firsts(rows["item_id"]))


def _users(rows: Source) -> pa.Table:
    pairs = listed.category_codes(rows["onehot_feat1"], rows["onehot_feat2"])
    return pa.table({"user": rows["user_id"], "segment": pairs[1]}).take(listed.firsts(rows["user_id"]))


ADAPTER = Adapter(
    name="kuaisar",
    title="KuaiSAR: searches and feed of Kuaishou",
    source="https://zenodo.org/record/8181109",
    licence="CC BY-NC-SA 4.0",
    gives=(
        "searches with the results shown and clicked, in the order of the file",
        "queries and captions as anonymised word ids",
        "the same users' feed: every video shown, with time and click",
        "item categories (three levels), authors, upload days; one user persona",
    ),
    cannot_give=(
        "unexposed candidates: only what was shown is logged",
        "slots: the source states no position",
        "times of search clicks: they share their search's time",
        "feed requests: the source has single impressions (see feed_gap)",
        "carts, purchases, prices: a video app has none",
    ),
    columns=COLUMNS,
    read=read,
)
