"""Hierarchical label attribution: what happened outside search, written onto a sample of the search that preceded it.

UniScale section 2; where the paper is silent, the defaults of its section 8. An outside event is a click or purchase that did
not happen on the page of a target-domain request. It is written onto at most one sample:

1. eligible are the candidates, shown or not, of the same user's earlier train requests that hold the item, lie within the
   kind's window (request strictly before the event, at most the window earlier), and pass the relevance rule;
2. of these the best level wins, then the most recent request. Levels of a click: 2 exposed, 3 unexposed. Levels of a
   purchase: 2 clicked on that page before, 3 exposed but unclicked, 4 unexposed. Level 1 is the page's own label;
3. a sample that is positive already keeps what it has, and the event is dropped as `already_positive`; of several events that
   choose the same sample the earliest labels it.

Relevance `category`: the item's leaf category is the query's. Relevance `text`: the title holds at least `text_threshold` of
the query's words, weighted by their rarity. Where the query or the item does not say, nothing is held against the item.

Every outside event ends as `attributed` or under one named reason, so that the counts add up.
"""

import ibis
import ibis.expr.types as ir

from data_gen.es3.candidates import CLICK, PURCHASE, TARGET
from data_gen.es3.config import ES3Config
from data_gen.es3.session import Session
from data_gen.es3.shared import Shared
from data_gen.es3.tables import Logs

REASONS = ("attributed", "test_period", "no_request_in_window", "not_a_candidate", "not_relevant", "already_positive")
"""Fates of an outside event, the first that applies in this order after `attributed`."""


_EVENT = ("user_id", "event", "item_id", "kind", "ts", "domain")


def outside_events(logs: Logs) -> ir.Table:
    """Clicks and purchases not on a target-domain request's page, numbered from 0 within their user as `event`."""
    events = logs.events.filter(logs.events.kind.isin([CLICK, PURCHASE]))
    pages = logs.requests.filter(logs.requests.domain == TARGET).select(page="request_id")
    events = events.left_join(pages, events.request_id == pages.page)
    events = events.filter(events.page.isnull() | (events.domain != TARGET))
    order = [events.ts, events.item_id, events.kind, events.domain, events.request_id.fill_null(-1)]
    number = ibis.row_number().over(group_by="user_id", order_by=order)
    return events.select("user_id", "item_id", "ts", "kind", "domain", event=number)


def attribute(session: Session, logs: Logs, shared: Shared, pool: ir.Table, config: ES3Config) -> tuple[ir.Table, ir.Table]:
    """Attribute outside events to samples.

    Returns:
      labels: user_id, request_id, item_id, kind, level, origin (the event's domain code), ts of the event, weight; one row a
        sample and kind.
      fates: kind, domain, fate (one of REASONS); one row an outside event.
    """
    events = session.save("outside", outside_events(logs))
    pairs = find_pairs(pool.filter(~pool.test), events.filter(events.ts < logs.test_start), config)
    pairs = session.save("attribution_pairs", _with_relevance(pairs, logs, shared, config))
    winners = session.save("attributed", choose(pairs.filter(pairs.relevant)))

    near = _last_requests(events, logs)
    met = pairs.group_by("user_id", "event").aggregate(fitting=pairs.relevant.max())
    won = winners.select("user_id", "event", won=ibis.literal(True))
    fates = events.left_join(near, ["user_id", "event"]).select(events, "last_request")
    fates = fates.left_join(met, ["user_id", "event"]).select(fates, "fitting")
    fates = fates.left_join(won, ["user_id", "event"]).select(fates, "won")
    in_window = (fates.ts - fates.last_request <= _window(fates, config)).fill_null(False)
    fates = fates.select(
        "kind",
        "domain",
        fate=ibis.cases(
            (fates.ts >= logs.test_start, "test_period"),
            (~in_window, "no_request_in_window"),
            (fates.fitting.isnull(), "not_a_candidate"),
            (~fates.fitting, "not_relevant"),
            (fates.won.isnull(), "already_positive"),
            else_="attributed",
        ),
    )
    labels = winners.mutate(weight=confidence(winners.level, winners.lag, config))
    return labels.select("user_id", "request_id", "item_id", "kind", "level", "ts", "weight", origin="domain"), fates


def find_pairs(candidates: ir.Table, events: ir.Table, config: ES3Config) -> ir.Table:
    """Every (event, candidate) of one user and item with the request inside the event's window, and the candidate's level.

    `candidates`: request_id, user_id, item_id, ts (of the request), exposed, click_ts, purchase_ts. `events`: user_id, event,
    item_id, ts, kind, domain. `positive` says that the candidate has the page's own label of that kind.
    """
    some = candidates.select(
        "request_id", "exposed", "click_ts", "purchase_ts", own_user="user_id", own_item="item_id", request_ts="ts"
    )
    pairs = some.inner_join(
        events,
        [
            some.own_user == events.user_id,
            some.own_item == events.item_id,
            some.request_ts < events.ts,
            some.request_ts >= events.ts - max(config.click_window, config.purchase_window),
        ],
    )
    if config.click_window != config.purchase_window:
        pairs = pairs.filter(pairs.ts - pairs.request_ts <= _window(pairs, config))
    is_click = pairs.kind == CLICK
    level = ibis.cases(
        (is_click, ibis.ifelse(pairs.exposed, 2, 3)),
        ((pairs.click_ts <= pairs.ts).fill_null(False), 2),
        (pairs.exposed, 3),
        else_=4,
    )
    positive = ibis.ifelse(is_click, pairs.click_ts, pairs.purchase_ts).notnull()
    return pairs.select(*_EVENT, "request_id", lag=pairs.ts - pairs.request_ts, level=level.cast("int8"), positive=positive)


def choose(pairs: ir.Table) -> ir.Table:
    """Give each event its best target and each target its earliest event; targets that are positive already take none.

    Returns user_id, event, item_id, kind, ts, domain, request_id, level, lag. The choices are aggregates over integers that
    hold several columns each, since an engine groups by one integer much faster than it ranks rows by several.
    """
    said = ("item_id", "kind", "ts", "domain")
    keyed = pairs.select(
        *said,
        of=pairs.user_id.cast("int64") * 2**32 + pairs.event,
        order=pairs.level.cast("int64") * 2**32 + pairs.lag,  # the level, then the lag: smaller is better
        pick=pairs.request_id * 2 + ibis.ifelse(pairs.positive, 1, 0),
    )
    last = keyed.group_by("of", "order").aggregate(pick=keyed.pick.max(), **{n: keyed[n].arbitrary() for n in said})
    best = last.group_by("of").aggregate(
        pick=last.pick.argmin(last.order), order=last.order.min(), **{n: last[n].arbitrary() for n in said}
    )
    best = best.filter((best.pick & 1) == 0)
    first = best.group_by(best.item_id, best.kind, request_id=best.pick >> 1).aggregate(
        ts=best.ts.min(), domain=best.domain.argmin(best.of), order=best.order.argmin(best.of), of=best.of.min()
    )
    low = 2**32 - 1
    return first.select(
        *said, "request_id", user_id=(first.of >> 32).cast("int32"), event=first.of & low,
        level=(first.order >> 32).cast("int8"), lag=first.order & low,
    )  # fmt: skip


def confidence(level: ir.Value, lag: ir.Value, config: ES3Config) -> ir.Value:
    """Weight of a label: halved every `label_half_life` seconds of lag, times `level_confidence` a level below the first."""
    weight = ibis.literal(1.0)
    if config.label_half_life:
        weight = weight * ibis.literal(2.0) ** (-lag / config.label_half_life)
    if config.level_confidence != 1:
        weight = weight * ibis.literal(config.level_confidence) ** (level - 1)
    # Rounded, since engines differ in the last digit of a power.
    return weight.round(6).cast("float32")


def _window(table: ir.Table, config: ES3Config) -> ir.Value:
    return ibis.ifelse(table.kind == CLICK, config.click_window, config.purchase_window)


def _last_requests(events: ir.Table, logs: Logs) -> ir.Table:
    """The time of the user's last train request strictly before each event: user_id, event, last_request.

    Events and requests are laid on one timeline, which costs by rows, not by pairs of rows.
    """
    requests = logs.requests.filter((logs.requests.domain == TARGET) & ~logs.requests.test)
    none = ibis.null("int64")
    marks = ibis.union(
        events.select("user_id", "ts", event=events.event.cast("int64"), asked=none),
        requests.select("user_id", "ts", event=none, asked="ts"),
    )
    # At equal times the event comes first: a request in the same second is not before it.
    window = ibis.cumulative_window(group_by="user_id", order_by=[marks.ts, marks.asked.notnull()])
    marks = marks.mutate(last_request=marks.asked.max().over(window))
    return marks.filter(marks.event.notnull()).select("user_id", "event", "last_request")


def _with_relevance(pairs: ir.Table, logs: Logs, shared: Shared, config: ES3Config) -> ir.Table:
    if config.relevance == "none":
        return pairs.mutate(relevant=ibis.literal(True))
    asked = logs.requests.select(asking="request_id", asked="query_id")
    pairs = pairs.left_join(asked, pairs.request_id == asked.asking).drop("asking")
    if config.relevance == "category":
        wanted = logs.queries.select(wanted_query="query_id", wanted="category_3")
        kinds = logs.items.select(kind_item="item_id", found="category_3")
        pairs = pairs.left_join(wanted, pairs.asked == wanted.wanted_query)
        pairs = pairs.left_join(kinds, pairs.item_id == kinds.kind_item)
        pairs = pairs.mutate(relevant=(pairs.wanted == pairs.found).fill_null(True))
        return pairs.drop("asked", "wanted", "wanted_query", "found", "kind_item")
    asks = pairs.filter(pairs.asked.notnull()).select(ask_query="asked", ask_item="item_id").distinct()
    titles = shared.item_words.filter(shared.item_words.words.notnull())
    asks = asks.inner_join(titles, asks.ask_item == titles.words_item).drop("words_item")
    asks = asks.inner_join(shared.query_terms, asks.ask_query == shared.query_terms.term_query)
    # Whole numbers, so that no engine's order of summing can tip the comparison.
    said = ibis.ifelse(asks.words.contains(asks.word), asks.weight, 0)
    asks = asks.group_by("ask_query", "ask_item").aggregate(said=said.sum(), all=asks.weight.sum())
    fits = asks.said * 1000 >= asks["all"] * round(1000 * config.text_threshold)
    asks = asks.select("ask_query", "ask_item", fits=fits)
    pairs = pairs.left_join(asks, (pairs.asked == asks.ask_query) & (pairs.item_id == asks.ask_item))
    return pairs.mutate(relevant=pairs.fits.fill_null(True)).drop("asked", "ask_query", "ask_item", "fits")
