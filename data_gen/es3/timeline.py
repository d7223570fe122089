"""Entire-space features as of a request: one timeline a user across domains and kinds, strictly before it."""

from dataclasses import dataclass

import ibis
import ibis.expr.types as ir

from data_gen.es3.session import Session

_END = 2**62
_ORDER = ("ts", "item_id", "kind", "domain", "request_id")
"""Order of a user's events; all columns, so that rows which tie are the same row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeline:
    """`events`: a user's events numbered from 0 as `place`; `runs`: how often and when last a user met an item, by interval.

    A row of `runs` holds in the half-open interval (since, until] of request time, which is what makes it strictly earlier.
    """

    events: ir.Table
    runs: ir.Table


def make_timeline(session: Session, events: ir.Table) -> Timeline:
    """Number every user's events and accumulate their meetings with each item."""
    order = [events[c] if c != "request_id" else events[c].fill_null(-1) for c in _ORDER]
    numbered = events.mutate(place=ibis.row_number().over(group_by="user_id", order_by=order)).select(
        "user_id", "place", "ts", "item_id", "kind", "domain"
    )
    met = events.group_by("user_id", "item_id", "ts").aggregate(times=events.count())
    window = {"group_by": ["user_id", "item_id"], "order_by": "ts"}
    runs = met.select(
        "user_id",
        "item_id",
        since=met.ts,
        until=met.ts.lead().over(**window).fill_null(_END),
        touches=met.times.sum().over(ibis.cumulative_window(**window)),
    )
    return Timeline(events=session.save("timeline", numbered), runs=session.save("touch_runs", runs))


def count_earlier(requests: ir.Table, timeline: Timeline) -> ir.Table:
    """Add `earlier` to requests: how many of the user's events are strictly before it.

    Requests and events are laid on one timeline and counted by a window, which costs by rows, not by pairs of rows.
    """
    marks = ibis.union(
        timeline.events.select("user_id", "ts", request_id=ibis.null("int64"), step=ibis.literal(1, "int64")),
        requests.select("user_id", "ts", "request_id", step=ibis.literal(0, "int64")),
    )
    # At equal times step 0, the request, comes first: an event in the same second is not before it.
    window = ibis.cumulative_window(group_by="user_id", order_by=[marks.ts, marks.step])
    counted = marks.mutate(earlier=marks.step.sum().over(window))
    counted = counted.filter(counted.step == 0).select(counted_request=counted.request_id, earlier=counted.earlier)
    return requests.inner_join(counted, requests.request_id == counted.counted_request).drop("counted_request")


def histories(requests: ir.Table, timeline: Timeline, length: int, max_age: int) -> ir.Table:
    """One row an earlier event: request_id, order_key, back (0 is the most recent), item_id, kind, domain, age in seconds.

    `requests` needs user_id, ts, order_key and `earlier`; at most `length` events a request, none older than `max_age` seconds
    (0: no limit).
    """
    some = requests.filter((requests.earlier > 0) & (length > 0))
    back = ibis.range(0, ibis.least(some.earlier, length)).unnest()
    wanted = some.select("request_id", "order_key", "user_id", "earlier", request_ts="ts", back=back)
    wanted = wanted.mutate(place=wanted.earlier - 1 - wanted.back).drop("earlier")
    events = timeline.events.rename(event_user="user_id", event_place="place")
    found = wanted.inner_join(events, (wanted.user_id == events.event_user) & (wanted.place == events.event_place))
    if max_age:
        found = found.filter(found.request_ts - found.ts <= max_age)
    return found.select(
        "request_id", "order_key", "back", "item_id", "kind", "domain", age=clip(found.request_ts - found.ts, "int32")
    )


def with_touches(candidates: ir.Table, timeline: Timeline) -> ir.Table:
    """Add `touches` and `touch_age` to candidates that carry the user_id and ts of their request."""
    runs = timeline.runs.rename(run_user="user_id", run_item="item_id")
    joined = candidates.left_join(
        runs,
        [
            candidates.user_id == runs.run_user,
            candidates.item_id == runs.run_item,
            runs.since < candidates.ts,
            candidates.ts <= runs.until,
        ],
    )
    return joined.mutate(
        touches=clip(joined.touches.fill_null(0), "int16"),
        touch_age=clip((joined.ts - joined.since).fill_null(-1), "int32"),
    ).drop("run_user", "run_item", "since", "until")


def clip(value: ir.Value, dtype: str) -> ir.Value:
    """Cut an integer at the largest value of a narrower type, and make it one."""
    largest = {"int8": 2**7, "int16": 2**15, "int32": 2**31}[dtype] - 1
    return ibis.least(value, largest).cast(dtype)
