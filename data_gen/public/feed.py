"""A feed whose log has impressions but no requests: which of them form one list is the one thing that must be decided."""

import numpy as np
import pyarrow as pa

from data_gen.public import listed
from data_gen.public.delimited import Source
from unisc.errors import InputError


def feed(
    rows: Source, domain: str, *, item: str, time: str, click: str, gap: int, offset: int = 0, scene: np.ndarray | None = None
) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Turn impressions into the lists (numbered from `offset`), entries and clicks that `listed.log_tables` takes.

    `item`, `time` (unix milliseconds) and `click` name the columns; a user's impressions of one `scene` whose times lie at most
    `gap` seconds apart form one list, in the order of time, then of the file. A list has its first impression's time, a click
    its own.
    """
    user, items = rows["user_id"].to_numpy(), rows[item].to_numpy()
    ts, ts_ms = rows.seconds(time, per_second=1000), rows[time].to_numpy().astype(np.int64)
    keys = (user,) if scene is None else (user, scene)
    lists = number_lists(1000 * gap, ts_ms, *keys)
    order = np.lexsort((np.arange(len(rows)), ts_ms, lists))
    firsts = order[np.diff(lists[order], prepend=-1) != 0]
    return (
        listed.requests(user=user[firsts], ts=ts[firsts], domain=domain, scene=None if scene is None else scene[firsts]),
        pa.table({"list": lists[order] + offset, "item": items[order], "exposed": np.ones(len(rows), bool)}),
        listed.clicks(
            np.flatnonzero(rows[click].to_numpy() > 0), user=user, item=items, ts=ts, domain=domain, lists=lists + offset
        ),
    )


def number_lists(gap: int, ts: np.ndarray, *keys: np.ndarray) -> np.ndarray:
    """Number lists from 0 in the order of keys and times: rows of equal keys that follow each other within `gap` are one list.

    With a gap of 0 only rows of the very same time are, and most lists have one entry; more is the caller's assumption.

    Raises:
      InputError: a negative gap.
    """
    if gap < 0:
        raise InputError(f"feed_gap {gap // 1000}: is negative; give seconds, 0 to join only what was shown at the same time")
    order = np.lexsort((ts, *keys))
    new = np.diff(ts[order], prepend=ts[order[:1]]) > gap
    for key in keys:
        new |= np.diff(key[order], prepend=key[order[:1]]) != 0
    lists = np.empty(len(order), np.int64)
    lists[order] = np.cumsum(new)
    return lists
