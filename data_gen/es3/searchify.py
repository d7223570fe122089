"""Searchification: every click on a list of another domain becomes a pseudo search request (UniScale section 3).

A pseudo request stands at the time of the list the click was made on, so its features are as of that page like those of a
logged request. It holds the clicked item, unclicked items shown beside it, and a query found by a fallback:

1. the user's own latest query that led to a click on this item before;
2. the item's most frequent query, over search clicks of everybody on earlier days (a day is 86,400 s of unix time);
3. the query of the catalogue nearest to the item's title (`query_text`).

Its request_id says where it comes from: -1 - (4096 x the list's request_id + the item's place among the clicked ones).
"""

import ibis
import ibis.expr.types as ir

from data_gen.es3.attribution import confidence
from data_gen.es3.candidates import CLICK, PURCHASE, TARGET, in_request, labels_of_page
from data_gen.es3.config import ES3Config
from data_gen.es3.hashing import with_hash
from data_gen.es3.session import Session
from data_gen.es3.shared import DAY, Shared
from data_gen.es3.tables import Logs

SLOTS = 4096
"""Clicked items of one list that can become pseudo requests."""

STEPS = ("all", "early", "listed", "distinct", "shown", "numbered", "kept", "made")
"""What is left of the clicks outside the target domain after each rule; the difference of neighbours is a fate."""

_STRUCTURE = ("category_3", "category_2", "brand_id")
_AT = ("rank", "position", "price", "propensity")


def searchify(
    session: Session, logs: Logs, shared: Shared, config: ES3Config
) -> tuple[ir.Table, ir.Table, dict[str, ir.Table]]:
    """Make the pseudo requests.

    Returns:
      requests: request_id (negative), user_id, ts, domain, query_id, query_level, scene, shop_id.
      candidates: request_id, item_id, rank, exposed, position, price, and the labels' levels, origins and weights.
      steps: for each of STEPS the clicks that are left, with their domain.
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
    shown = lists.filter(lists.click_ts.notnull())
    slot = ibis.row_number().over(group_by="request_id", order_by="item_id").cast("int64")
    positives = session.save("feed_positives", shown.mutate(slot=slot).filter(lambda t: t.slot < SLOTS))
    negatives = session.save("feed_negatives", _negatives(positives, lists, logs, shared, config))
    kept = positives.semi_join(
        negatives, (positives.request_id == negatives.request_id) & (positives.item_id == negatives.positive)
    )
    asked = session.save("pseudo_queries", _queries(session, session.save("pseudo", kept), logs, shared))
    made = asked.filter(asked.query_id.notnull())
    made = session.save("pseudo_requests", made.mutate(pseudo_id=-1 - (made.request_id * SLOTS + made.slot)))
    listed = page.filter(page.kind == CLICK)
    steps = {
        "all": clicks,
        "early": clicks.filter(clicks.ts < logs.test_start),
        "listed": listed,
        "distinct": listed.select("request_id", "item_id", "domain").distinct(),
        "shown": shown,
        "numbered": positives,
        "kept": kept,
        "made": made,
    }
    requests = made.select("user_id", "ts", "domain", "query_id", "query_level", "scene", "shop_id", request_id="pseudo_id")
    return requests, session.save("pseudo_candidates", _candidates(made, negatives, logs, config)), steps


def _negatives(positives: ir.Table, lists: ir.Table, logs: Logs, shared: Shared, config: ES3Config) -> ir.Table:
    """Unclicked items of the positive's list: request_id, positive, item_id and where the item stood.

    `config.negatives` decides which. "similar", the paper's: those that share a category or the brand, the most similar first;
    the score counts shared category levels, brand, attributes and title words. Logs that describe items by none of category and
    brand cannot tell similar from not, so there every item counts. "random": by lot. "all": all of them.
    """
    columns = ("request_id", "positive", "item_id", *_AT)
    mine = positives.select("request_id", positive="item_id")
    # Bought without a click that was logged: no negative either.
    other = lists.filter(lists.click_ts.isnull() & lists.purchase_ts.isnull()).select("request_id", "item_id", *_AT)
    if config.negatives == "all":
        return mine.inner_join(other, "request_id").select(*columns)
    if config.negatives == "random":
        pairs = with_hash(mine.inner_join(other, "request_id"), "lot", "request_id", "item_id", seed=config.seed)
        order = [pairs.lot, pairs.item_id]
    else:
        pairs = _with_score(mine, other, logs, shared)
        order = [ibis.desc(pairs.score), pairs["rank"], pairs.item_id]
    pairs = pairs.mutate(place=ibis.row_number().over(group_by=["request_id", "positive"], order_by=order))
    return pairs.filter(pairs.place < shared.num_negatives).select(*columns)


def _with_score(mine: ir.Table, other: ir.Table, logs: Logs, shared: Shared) -> ir.Table:
    """Pairs of a positive and a similar item of its list, with how similar they are."""
    items = logs.items.select("item_id", "category_1", "category_2", "category_3", "brand_id", "attribute_ids")
    items = items.left_join(shared.item_words, items.item_id == shared.item_words.words_item).drop("words_item")
    pairs = mine.inner_join(items.rename("mine_{name}"), [("positive", "mine_item_id")])
    pairs = pairs.inner_join(other.inner_join(items, "item_id"), "request_id")

    def same(column: str) -> ir.BooleanValue:
        return (pairs[f"mine_{column}"] == pairs[column]).fill_null(False)

    def in_common(column: str) -> ir.IntegerValue:
        mine, other = (pairs[c].fill_null([]).unique() for c in (f"mine_{column}", column))
        return mine.intersect(other).length()

    levels = [same(c).cast("int32") for c in ("category_3", "category_2", "category_1", "brand_id")]
    score = levels[0] + levels[1] + levels[2] + levels[3] + in_common("attribute_ids") + in_common("words")
    if logs.absent.issuperset(_STRUCTURE):
        return pairs.mutate(score=score)
    similar = same("category_3") | same("category_2") | same("brand_id")
    return pairs.mutate(score=score, similar=similar).filter(lambda t: t.similar)


def _queries(session: Session, pseudo: ir.Table, logs: Logs, shared: Shared) -> ir.Table:
    """Add query_id and query_level by the fallback; both null where no level finds one."""
    clicks = in_request(logs)
    clicks = clicks.filter((clicks.domain == TARGET) & (clicks.kind == CLICK) & clicks.query_id.notnull())
    key = pseudo.select("request_id", "item_id", "user_id", "ts")
    past = clicks.select(past_user="user_id", past_item="item_id", past_ts="ts", own="query_id")
    past = key.inner_join(past, [key.user_id == past.past_user, key.item_id == past.past_item, past.past_ts < key.ts])
    latest = ibis.row_number().over(group_by=["request_id", "item_id"], order_by=[ibis.desc(past.past_ts), past.own])
    past = past.mutate(place=latest).filter(lambda t: t.place == 0)
    past = past.select(own_request="request_id", own_item="item_id", own="own")

    day = (key.ts // DAY).cast("int64")
    common = shared.common
    common = key.inner_join(common, [key.item_id == common.common_item, common.since < day, day <= common.until])
    common = common.select(common_request="request_id", common_item_id="item_id", common="common")

    found = pseudo.left_join(past, (pseudo.request_id == past.own_request) & (pseudo.item_id == past.own_item))
    found = found.left_join(
        common, (found.request_id == common.common_request) & (found.item_id == common.common_item_id)
    ).drop("own_request", "own_item", "common_request", "common_item_id")
    found = session.save("pseudo_past_queries", found)
    found = found.left_join(shared.nearest, found.item_id == shared.nearest.near_item).drop("near_item")
    return found.select(
        "request_id", "item_id", "user_id", "ts", "domain", "scene", "shop_id", "slot", *_AT, "click_ts", "purchase_ts",
        query_id=ibis.coalesce(found.own, found.common, found.near),
        query_level=ibis.cases((found.own.notnull(), 1), (found.common.notnull(), 2), (found.near.notnull(), 3)).cast("int8"),
        # What the lower levels would have said, for the report on how far they agree with the user's own words.
        own_query="own", common_query="common", near_query="near",
    )  # fmt: skip


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
    here, none, sure = positive.purchase_ts.notnull(), ibis.literal(-1, "int8"), ibis.literal(1.0, "float32")
    elsewhere = positive.bought_domain.notnull()
    level = ibis.cases((here, 1), (elsewhere, 2), else_=0).cast("int8")
    lag = (positive.bought_ts - positive.ts).fill_null(0)
    positive = positive.select(
        *("item_id", *_AT),
        request_id="pseudo_id",
        click_level=ibis.literal(1, "int8"),
        click_origin="domain",
        click_label_ts="click_ts",
        click_weight=sure,
        purchase_level=level,
        purchase_origin=ibis.cases((here, positive.domain), (elsewhere, positive.bought_domain), else_=none),
        purchase_label_ts=ibis.cases((here, positive.purchase_ts), (elsewhere, positive.bought_ts), else_=-1),
        purchase_weight=ibis.ifelse(level == 2, confidence(level, lag, config), sure),
    )
    n = negatives.rename(list_request="request_id", list_item="item_id")
    n = r.select("pseudo_id", "request_id", positive="item_id").inner_join(n, [("request_id", "list_request"), "positive"])
    zero, never = ibis.literal(0, "int8"), ibis.literal(-1, "int64")
    negative = n.select(
        *_AT,
        item_id="list_item",
        request_id="pseudo_id",
        **{
            name: value
            for kind in ("click", "purchase")
            for name, value in (
                (f"{kind}_level", zero),
                (f"{kind}_origin", none),
                (f"{kind}_label_ts", never),
                (f"{kind}_weight", sure),
            )
        },
    )
    return ibis.union(positive, negative.select(*positive.columns)).mutate(exposed=ibis.literal(True))
