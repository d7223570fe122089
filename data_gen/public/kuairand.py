"""KuaiRand (Kuaishou, 2022): a feed into which randomly chosen videos were inserted, as log tables.
 Source: zenodo.org/records/10439422; described in chongminggao/KuaiRand `README.md` at 03240286 and in arXiv 2208.08696.
Licence CC BY-SA 4.0 by the repository's badge. Nothing of it is shipped or was at hand: the schema below is the published
one, and the tests generate files of exactly that schema. All three forms are read (27K, 1K, Pure; the names end in `_27k`,
`_1k`, `_pure`, some in `_part1`); 27K has 322 million rows and needs a machine that holds them.

What a row means, and where it goes:

- `log_standard_*.csv`, `log_random_*.csv`: one video shown to a user, with `is_click` (in the single-column feed: played
  for more than 7 s or to its end). Every row is an exposed entry of a request of the one domain "rec", and a click where it
  has one.
- `scene` is `tab` (0 to 14, the place in the app), plus 15 where `is_rand` is 1: a random exposure can be told from the
  feed's own.
- `video_features_basic*.csv`: `attribute_ids` are the numbers of `tag` as they stand, `shop_id` a code of `author_id` (who
  offers the item), `created_ts` the day of `upload_dt` in Beijing (0 where not given).
- `user_features*.csv`: `segment` is a code of `onehot_feat1`; the log tables have one column for a persona.

Certain from the source: names, types and meaning of the columns; `time_ms` in unix milliseconds; random videos replace
recommended ones with equal probability, and make up about 0.37 % of the interactions. Not stated by the source, therefore
absent: the probability with which a given video was shown in a given place, so `propensity` stays empty even for random
exposures; the slot; the request. The log has impressions only: by default those of one user and scene in the very same
millisecond form one list, `read(path, feed_gap=seconds)` joins what follows within so many seconds, which is your
assumption. Pure keeps the logs of 7,583 videos only: its feed, and any list joined in it, has holes.

There is no search, so no query: the table `queries` is empty. Left out: like, follow, comment, forward, hate, long_view,
profile entries (no event kinds of ours; counted), watch times, the statistics of videos (averages over the month, so they know
the future of every request), other columns of users and videos.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_gen.public import delimited, listed
from data_gen.public.adapter import Adapter, Converted
from data_gen.public.delimited import Source, needed
from data_gen.public.feed import feed

DOMAINS = ("rec",)
NUM_TABS = 15
STANDARD, RANDOM, VIDEOS, USERS = "log_standard_*.csv", "log_random_*.csv", "video_features_basic*.csv", "user_features*.csv"
_ACTIONS = ("is_like", "is_follow", "is_comment", "is_forward", "is_hate", "long_view", "is_profile_enter")

_LOG = pa.schema(
    [
        needed("user_id", pa.int64()),
        needed("video_id", pa.int64()),
        needed("time_ms", pa.int64()),
        needed("is_click", pa.int64()),
        *((name, pa.int64()) for name in _ACTIONS),
        needed("is_rand", pa.int64()),
        needed("tab", pa.int64()),
    ]
)
COLUMNS = {
    STANDARD: _LOG,
    RANDOM: _LOG,
    VIDEOS: pa.schema(
        [needed("video_id", pa.int64()), ("author_id", pa.int64()), ("upload_dt", pa.string()), ("tag", pa.string())]
    ),
    USERS: pa.schema([needed("user_id", pa.int64()), ("onehot_feat1", pa.int64())]),
}


def read(path: Path, *, test_share: float = 0.1, feed_gap: int = 0) -> Converted:
    """Read a folder of KuaiRand's files, plain or as .gz; the random log may be missing.

    `test_share` of the requests, the last by time, are test. `feed_gap` is in seconds (see above).

    Raises:
      InputError: a file or column missing, a value that does not convert, a time that is none or a tab out of range, named by
        file, column and row; a folder without impressions; a share that leaves a split empty.
    """
    logs = [delimited.read(f, _LOG) for f in [*delimited.find(path, STANDARD), *delimited.find(path, RANDOM, needed=False)]]
    video_rows = _joined(path, VIDEOS, lambda s: {"item": s["video_id"], "author": s["author_id"], **_video(s)})
    user_rows = _joined(path, USERS, lambda s: {"user": s["user_id"], "persona": s["onehot_feat1"]})
    videos, users = (t.take(listed.firsts(t[key])) for t, key in ((video_rows, "item"), (user_rows, "user")))
    videos = videos.append_column("shop_id", pa.array(listed.coded(videos["author"]))).drop_columns("author")
    users = users.append_column("segment", pa.array(listed.coded(users["persona"]))).drop_columns("persona")
    parts, dropped, offset = [], {}, 0
    for log in logs:
        lists, entries, events = feed(
            log, DOMAINS[0], item="video_id", time="time_ms", click="is_click", gap=feed_gap, offset=offset, scene=_scene(log)
        )
        merged = listed.without_repeats(entries)
        dropped[log.file.name] = listed.account(len(log), {"repeats a video of its list": len(entries) - len(merged)})
        parts.append((lists, merged, events))
        offset += len(lists)
    if not offset:
        logs[0].refuse_empty()
    lists, entries, events = (pa.concat_tables(tables) for tables in zip(*parts, strict=True))
    tables, unknown = listed.log_tables(lists=lists, entries=entries, events=events, items=videos, users=users)
    return Converted(
        tables=tables,
        domains=DOMAINS,
        test_start=listed.choose_test_start(lists["ts"].to_numpy(), test_share),
        end_ts=listed.end_of(tables),
        quality={
            "rows": {
                **dropped,
                VIDEOS: listed.account(len(video_rows), {"repeats a video_id": len(video_rows) - len(videos)}),
                USERS: listed.account(len(user_rows), {"repeats a user_id": len(user_rows) - len(users)}),
            },
            "actions_left_out": {
                name: sum(pc.sum(pc.greater(log[name], 0), min_count=0).as_py() for log in logs) for name in _ACTIONS
            },
            "random_exposures": sum(pc.sum(log["is_rand"], min_count=0).as_py() for log in logs),
            "feed_gap": feed_gap,
            "test_share": test_share,
            **unknown,
        },
    )


def _scene(log: Source) -> np.ndarray:
    tab, random = log["tab"].to_numpy(), log["is_rand"].to_numpy()
    for name, values, limit in (("tab", tab, NUM_TABS), ("is_rand", random, 2)):
        bad = (values < 0) | (values >= limit)
        if bad.any():
            log.fail(name, bad, f"not a number from 0 to {limit - 1}")
    return (tab + NUM_TABS * random).astype(np.int32)


def _joined(path: Path, pattern: str, make: Callable[[Source], dict[str, Any]]) -> pa.Table:
    return pa.concat_tables([pa.table(make(delimited.read(f, COLUMNS[pattern]))) for f in delimited.find(path, pattern)])


def _video(rows: Source) -> dict[str, Any]:
    return {"attribute_ids": rows.numbers("tag"), "created_ts": rows.beijing_days("upload_dt")}


ADAPTER = Adapter(
    name="kuairand",
    title="KuaiRand: a feed with random exposures",
    source="https://zenodo.org/records/10439422",
    licence="CC BY-SA 4.0 (badge of the repository)",
    gives=(
        "every video shown in the feed, with time, place in the app and click",
        "random exposures, told apart by their scene (15 or more)",
        "video tags, authors, upload days; one user persona",
    ),
    cannot_give=(
        "searches, queries and titles: there are none",
        "propensities: the source states no probability of a given video in a given place",
        "unexposed candidates, slots and requests: the source has single impressions (see feed_gap)",
        "carts, purchases, prices: a video app has none",
    ),
    columns=COLUMNS,
    read=read,
)
