"""Searchification: every click on a list of another domain becomes a pseudo search request (UniScale section 3).

A pseudo request stands at the time of the list the click was made on, so its features are as of that page like those of a
logged request. It holds the clicked item, the similar unclicked items shown beside it, and a query found by a fallback:

1. the user's own latest query that led to a click on this item before;
2. the item's most frequent query, over search clicks of everybody on earlier days (a day is 86,400 s of unix time);
3. the query of the catalogue nearest to the item's title (`query_text`).
"""

import ibis
import ibis.expr.types as ir

from data_gen.es3.candidates import CLICK, PURCHASE, TARGET, in_request, labels_of_page
from data_gen.es3.config import ES3Config
from data_gen.es3.query_text import nearest_queries
from data_gen.es3.session import Session
from data_gen.es3.tables import Logs

DAY = 86400
FATES = ("searchified", "test_period", "no_impression_list", "not_exposed", "repeated_click", "no_similar_negative", "no_query")
"""Fates of a click outside the target domain, the first that applies in this order after `searchified`."""

_STRUCTURE = ("category_3", "category_2", "brand_id")


def searchify(session: Session, logs: Logs, pool: ir.Table, config: ES3Config) -> tuple[ir.Table, ir.Table, dict[str, int]]:
    """Make the pseudo requests.

    Returns:
      requests: request_id (negative), user_id, ts, domain, query_id, query_level, scene, shop_id.
      candidates: request_id, item_id, rank, exposed, position, price, and the labels' levels and origins (0 and -1 if none).
      fates: clicks outside the target domain by fate; they add up to all such clicks.
    """
    clicks = logs.events.filter((logs.events.kind == CLICK) & (logs.events.domain != TARGET))
    page = in_request(logs)
    # The list's time decides the split, and the click's as well: nothing of the test period may label a train row.
    page = page.filter((page.domain != TARGET) & ~page.test & (page.ts < logs.test_start))
    labels = labels_of_page(page).rename(label_request="request_id", label_item="item_id")
    pages = logs.requests.filter((logs.requests.domain != TARGET) & ~logs.requests.test)
    lists = logs.candidates.filter(logs.candidates.exposed).inner_join(
        pages.select("request_id", "user_id", "ts", "domain", "scene", "shop_id"), "request_id"
    )
    lists = lists.left_join(labels, (lists.request_id == labels.label_request) & (lists.item_id == labels.label_item))
    lists = session.save("feed_lists", lists.drop("label_request", "label_item"))
    positives = session.save("feed_positives", lists.filter(lists.click_ts.notnull()))
    negatives = session.save("feed_negatives", _negatives(positives, lists, logs, _num_negatives(session, pool)))
    with_negatives = positives.semi_join(
        negatives, (positives.request_id == negatives.request_id) & (positives.item_id == negatives.positive)
    )
    asked = session.save("pseudo_queries", _queries(session, session.save("pseudo", with_negatives), logs))
    requests = session.save(
        "pseudo_requests",
        asked.filter(asked.query_id.notnull()).mutate(
            pseudo_id=-1 - ibis.row_number().over(order_by=[asked.request_id, asked.item_id]).cast("int64")
        ),
    )
    fates = _fates(session, logs, clicks, page, positives, with_negatives, requests)
    return _rows(requests), session.save("pseudo_candidates", _candidates(requests, negatives, logs, config)), fates


def _num_negatives(session: Session, pool: ir.Table) -> int:
    """Negatives a pseudo request: 2 x mean exposed length of train requests, less the positive (section 3, arithmetic)."""
    train = pool.filter(~pool.test)
    row = session.first(train.aggregate(exposed=train.exposed.sum(), requests=train.request_id.nunique()))
    return max(1, round(2 * (row["exposed"] or 0) / max(1, row["requests"])) - 1)


def _negatives(positives: ir.Table, lists: ir.Table, logs: Logs, limit: int) -> ir.Table:
    """Unclicked items of the positive's list that share a category or the brand, the most similar first.

    The score counts shared category levels, brand, attributes and title words. Logs that describe items by none of category
    and brand cannot tell similar from not, so every unclicked item counts.
    """
    items = logs.items.select("item_id", "category_1", "category_2", "category_3", "brand_id", "attribute_ids", "title")
    mine = positives.select("request_id", positive="item_id").inner_join(
        items.rename("mine_{name}"), [("positive", "mine_item_id")]
    )
    other = lists.filter(lists.click_ts.isnull()).select("request_id", "item_id", "rank", "position", "price", "propensity")
    other = other.inner_join(items, "item_id")
    pairs = mine.inner_join(other, "request_id")

    def same(column: str) -> ir.BooleanValue:
        return (pairs[f"mine_{column}"] == pairs[column]).fill_null(False)

    shared = [same(c).cast("int32") for c in ("category_3", "category_2", "category_1", "brand_id")]
    words = [t.fill_null("").lower().split(" ").unique() for t in (pairs.mine_title, pairs.title)]
    attributes = [a.fill_null([]).unique() for a in (pairs.mine_attribute_ids, pairs.attribute_ids)]
    score = shared[0] + shared[1] + shared[2] + shared[3]
    score = score + attributes[0].intersect(attributes[1]).length() + words[0].intersect(words[1]).length()
    similar = same("category_3") | same("category_2") | same("brand_id")
    if logs.absent.issuperset(_STRUCTURE):
        similar = ibis.literal(True)
    pairs = pairs.mutate(score=score, similar=similar)
    pairs = pairs.filter(pairs.similar)
    place = ibis.row_number().over(
        group_by=["request_id", "positive"], order_by=[ibis.desc(pairs.score), pairs["rank"], pairs.item_id]
    )
    pairs = pairs.mutate(place=place)
    return pairs.filter(pairs.place < limit).select(
        "request_id", "positive", "item_id", "rank", "position", "price", "propensity"
    )


def _queries(session: Session, pseudo: ir.Table, logs: Logs) -> ir.Table:
    """Add query_id and query_level by the fallback; both null where no level finds one."""
    clicks = in_request(logs)
    clicks = clicks.filter((clicks.domain == TARGET) & (clicks.kind == CLICK) & clicks.query_id.notnull())
    clicks = session.save("search_clicks", clicks.select("user_id", "item_id", "ts", "query_id"))
    key = pseudo.select("request_id", "item_id", "user_id", "ts")

    past = clicks.select(past_user="user_id", past_item="item_id", past_ts="ts", own="query_id")
    past = key.inner_join(past, [key.user_id == past.past_user, key.item_id == past.past_item, past.past_ts < key.ts])
    latest = ibis.row_number().over(group_by=["request_id", "item_id"], order_by=[ibis.desc(past.past_ts), past.own])
    past = past.mutate(place=latest).filter(lambda t: t.place == 0)
    past = past.select(own_request="request_id", own_item="item_id", own="own")

    common = _common_queries(session, clicks)
    day = (key.ts // DAY).cast("int64")
    common = key.inner_join(common, [key.item_id == common.common_item, common.since < day, day <= common.until])
    common = common.select(common_request="request_id", common_item_id="item_id", common="common")

    found = pseudo.left_join(past, (pseudo.request_id == past.own_request) & (pseudo.item_id == past.own_item))
    found = found.left_join(
        common, (found.request_id == common.common_request) & (found.item_id == common.common_item_id)
    ).drop("own_request", "own_item", "common_request", "common_item_id")
    found = session.save("pseudo_past_queries", found)
    rest = found.filter(found.own.isnull() & found.common.isnull()).select("item_id").distinct()
    titles = session.fetch(rest.inner_join(logs.items.select("item_id", "title"), "item_id").order_by("item_id"))
    texts = session.fetch(logs.queries.select("query_id", "text").order_by("query_id"))
    near = session.load("nearest_queries", nearest_queries(titles, texts))
    found = found.left_join(near, found.item_id == near.near_item).drop("near_item")
    return found.select(
        "request_id", "item_id", "user_id", "ts", "domain", "scene", "shop_id", "rank", "position", "price", "propensity",
        "click_ts", "purchase_ts",
        query_id=ibis.coalesce(found.own, found.common, found.near),
        query_level=ibis.cases((found.own.notnull(), 1), (found.common.notnull(), 2), (found.near.notnull(), 3)).cast("int8"),
    )  # fmt: skip


def _common_queries(session: Session, clicks: ir.Table) -> ir.Table:
    """The most frequent query of an item over all days before: common_item, since < day <= until, common.

    One row for each day on which the item had search clicks; it holds from the next day to the item's next such day.
    """
    daily = clicks.mutate(day=(clicks.ts // DAY).cast("int64"))
    daily = daily.group_by("item_id", "query_id", "day").aggregate(times=daily.count())
    days = daily.select("item_id", "day").distinct().rename(day_item="item_id", since="day")
    sums = days.inner_join(daily, [days.day_item == daily.item_id, daily.day <= days.since])
    sums = sums.group_by("item_id", "since", "query_id").aggregate(times=sums.times.sum())
    order = [ibis.desc(sums.times), sums.query_id]
    top = sums.mutate(place=ibis.row_number().over(group_by=["item_id", "since"], order_by=order))
    top = top.filter(top.place == 0)
    until = top.since.lead().over(group_by="item_id", order_by="since").fill_null(2**62)
    return session.save("common_queries", top.select("since", common_item="item_id", common="query_id", until=until))


def _rows(requests: ir.Table) -> ir.Table:
    return requests.select("user_id", "ts", "domain", "query_id", "query_level", "scene", "shop_id", request_id="pseudo_id")


def _candidates(requests: ir.Table, negatives: ir.Table, logs: Logs, config: ES3Config) -> ir.Table:
    """The positive with its labels, then its negatives. A purchase elsewhere counts within the window after the click."""
    bought = logs.events.filter((logs.events.kind == PURCHASE) & (logs.events.ts < logs.test_start))
    bought = bought.select(buyer="user_id", bought="item_id", bought_ts="ts", bought_domain="domain")
    r = requests
    later = r.inner_join(bought, [r.user_id == bought.buyer, r.item_id == bought.bought, bought.bought_ts >= r.click_ts])
    later = later.filter(later.bought_ts - later.click_ts <= config.purchase_window)
    first = ibis.row_number().over(group_by="pseudo_id", order_by=[later.bought_ts, later.bought_domain])
    later = later.mutate(place=first).filter(lambda t: t.place == 0)
    later = later.select("bought_ts", later_id="pseudo_id", bought_domain="bought_domain")
    positive = r.left_join(later, r.pseudo_id == later.later_id)
    here, none = positive.purchase_ts.notnull(), ibis.literal(-1, "int8")
    elsewhere = positive.bought_domain.notnull()
    positive = positive.select(
        "item_id",
        "rank",
        "position",
        "price",
        "propensity",
        request_id="pseudo_id",
        click_level=ibis.literal(1, "int8"),
        click_origin="domain",
        click_label_ts="click_ts",
        purchase_level=ibis.cases((here, 1), (elsewhere, 2), else_=0).cast("int8"),
        purchase_origin=ibis.cases((here, positive.domain), (elsewhere, positive.bought_domain), else_=none),
        purchase_label_ts=ibis.cases((here, positive.purchase_ts), (elsewhere, positive.bought_ts), else_=-1),
    )
    n = negatives.rename(list_request="request_id", list_item="item_id")
    n = r.select("pseudo_id", "request_id", positive="item_id").inner_join(n, [("request_id", "list_request"), "positive"])
    zero = ibis.literal(0, "int8")
    negative = n.select(
        "rank",
        "position",
        "price",
        "propensity",
        item_id="list_item",
        request_id="pseudo_id",
        click_level=zero,
        click_origin=none,
        click_label_ts=ibis.literal(-1, "int64"),
        purchase_level=zero,
        purchase_origin=none,
        purchase_label_ts=ibis.literal(-1, "int64"),
    )
    return ibis.union(positive, negative.select(*positive.columns)).mutate(exposed=ibis.literal(True))


def _fates(
    session: Session, logs: Logs, clicks: ir.Table, page: ir.Table, positives: ir.Table, kept: ir.Table, made: ir.Table
) -> dict[str, int]:
    count = {
        "all": clicks,
        "early": clicks.filter(clicks.ts < logs.test_start),
        "listed": page.filter(page.kind == CLICK),
        "distinct": page.filter(page.kind == CLICK).select("request_id", "item_id").distinct(),
        "positives": positives,
        "kept": kept,
        "made": made,
    }
    n = {name: session.first(table.aggregate(n=table.count()))["n"] for name, table in count.items()}
    return {
        "searchified": n["made"],
        "test_period": n["all"] - n["early"],
        "no_impression_list": n["early"] - n["listed"],
        "repeated_click": n["listed"] - n["distinct"],
        "not_exposed": n["distinct"] - n["positives"],
        "no_similar_negative": n["positives"] - n["kept"],
        "no_query": n["kept"] - n["made"],
    }
