"""Hierarchical label attribution: what happened outside search, written onto a sample of the search that preceded it.

UniScale section 2; where the paper is silent, the defaults of its section 8. An outside event is a click or purchase that did
not happen on the page of a target-domain request. It is written onto at most one sample:

1. eligible are the candidates, shown or not, of the same user's earlier train requests that hold the item, lie within the
   kind's window (request strictly before the event, at most the window earlier), and pass the relevance rule;
2. of these the best level wins, then the most recent request. Levels of a click: 2 exposed, 3 unexposed. Levels of a
   purchase: 2 clicked on that page before, 3 exposed but unclicked, 4 unexposed. Level 1 is the page's own label;
3. a sample that is positive already keeps what it has, and the event is dropped as `already_positive`; of several events that
   choose the same sample the earliest labels it.

Every outside event ends as `attributed` or under one named reason, so that the counts add up.
"""

import ibis
import ibis.expr.types as ir

from data_gen.es3.candidates import CLICK, PURCHASE, TARGET
from data_gen.es3.config import ES3Config
from data_gen.es3.session import Session
from data_gen.es3.tables import Logs

REASONS = ("attributed", "test_period", "no_request_in_window", "not_a_candidate", "not_relevant", "already_positive")
"""Fates of an outside event, the first that applies in this order after `attributed`."""


def outside_events(logs: Logs) -> ir.Table:
    """Clicks and purchases not on a target-domain request's page, numbered from 0 as `event` in a fixed order."""
    events = logs.events.filter(logs.events.kind.isin([CLICK, PURCHASE]))
    pages = logs.requests.filter(logs.requests.domain == TARGET).select(page="request_id")
    events = events.left_join(pages, events.request_id == pages.page)
    events = events.filter(events.page.isnull() | (events.domain != TARGET)).drop("page")
    order = [events.ts, events.user_id, events.item_id, events.kind, events.domain, events.request_id.fill_null(-1)]
    return events.mutate(event=ibis.row_number().over(order_by=order))


def attribute(session: Session, logs: Logs, pool: ir.Table, config: ES3Config) -> tuple[ir.Table, ir.Table]:
    """Attribute outside events to samples.

    Returns:
      labels: request_id, item_id, kind, level, origin (the event's domain code), ts of the event; one row a sample and kind.
      fates: event, kind, domain, fate (one of REASONS); one row an outside event.
    """
    events = session.save("outside", outside_events(logs))
    early = events.filter(events.ts < logs.test_start)
    train = pool.filter(~pool.test)

    requests = logs.requests.filter((logs.requests.domain == TARGET) & ~logs.requests.test)
    near = requests.select(near_user="user_id", near_ts="ts")
    near = early.inner_join(near, [early.user_id == near.near_user, near.near_ts < early.ts])
    near = near.filter(_within(near, near.near_ts, config)).select("event").distinct()

    pairs = session.save("attribution_pairs", _pairs(early, train, requests, logs, config))
    rank = ibis.row_number().over(
        group_by="event", order_by=[pairs.level, ibis.desc(pairs.request_ts), ibis.desc(pairs.request_id)]
    )
    chosen = pairs.filter(pairs.relevant).mutate(rank=rank).filter(lambda t: t.rank == 0)
    first = ibis.row_number().over(group_by=["request_id", "item_id", "kind"], order_by="event")
    chosen = chosen.mutate(first=first)
    winners = session.save("attributed", chosen.filter((chosen.first == 0) & ~chosen.positive))

    fates = _with_flag(events, near, "near")
    fates = _with_flag(fates, pairs, "listed")
    fates = _with_flag(fates, pairs.filter(pairs.relevant), "fitting")
    fates = _with_flag(fates, winners, "won")
    fates = fates.select(
        "event",
        "kind",
        "domain",
        fate=ibis.cases(
            (fates.ts >= logs.test_start, "test_period"),
            (~fates.near, "no_request_in_window"),
            (~fates.listed, "not_a_candidate"),
            (~fates.fitting, "not_relevant"),
            (~fates.won, "already_positive"),
            else_="attributed",
        ),
    )
    return winners.select("request_id", "item_id", "kind", "level", "ts", origin="domain"), session.save("fates", fates)


def _within(table: ir.Table, request_ts: ir.Value, config: ES3Config) -> ir.BooleanValue:
    window = ibis.ifelse(table.kind == CLICK, config.click_window, config.purchase_window)
    return table.ts - request_ts <= window


def _pairs(events: ir.Table, train: ir.Table, requests: ir.Table, logs: Logs, config: ES3Config) -> ir.Table:
    """Every (event, candidate in its window), with its level, whether it is relevant and already positive."""
    candidates = train.select(
        "request_id", "exposed", "click_ts", "purchase_ts", own_user="user_id", own_item="item_id", request_ts="ts"
    )
    events = events.drop("request_id")
    pairs = candidates.inner_join(
        events,
        [
            candidates.own_user == events.user_id,
            candidates.own_item == events.item_id,
            candidates.request_ts < events.ts,
        ],
    )
    pairs = pairs.filter(_within(pairs, pairs.request_ts, config))
    if config.relevance == "category":
        asked = requests.select(asking="request_id", asked="query_id")
        wanted = logs.queries.select(wanted_query="query_id", wanted="category_3")
        kinds = logs.items.select(kind_item="item_id", found="category_3")
        pairs = pairs.left_join(asked, pairs.request_id == asked.asking)
        pairs = pairs.left_join(wanted, pairs.asked == wanted.wanted_query)
        pairs = pairs.left_join(kinds, pairs.item_id == kinds.kind_item)
        # Null means the query does not say, or the logs do not: nothing to hold against the item.
        pairs = pairs.mutate(relevant=(pairs.wanted == pairs.found).fill_null(True))
    else:
        pairs = pairs.mutate(relevant=ibis.literal(True))
    clicked = (pairs.click_ts <= pairs.ts).fill_null(False)
    level = ibis.ifelse(
        pairs.kind == CLICK,
        ibis.ifelse(pairs.exposed, 2, 3),
        ibis.cases((clicked, 2), (pairs.exposed, 3), else_=4),
    )
    positive = ibis.ifelse(pairs.kind == CLICK, pairs.click_ts.notnull(), pairs.purchase_ts.notnull())
    return pairs.mutate(level=level.cast("int8"), positive=positive).select(
        "event", "kind", "domain", "ts", "request_id", "item_id", "request_ts", "level", "relevant", "positive"
    )


def _with_flag(events: ir.Table, some: ir.Table, name: str) -> ir.Table:
    keys = some.select(marked="event").distinct()
    joined = events.left_join(keys, events.event == keys.marked)
    return joined.mutate(**{name: joined.marked.notnull()}).drop("marked")
