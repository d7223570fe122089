"""Pseudo requests: their negatives, their queries by fallback level, their labels, and the fate of every feed click."""

import dataclasses
from types import SimpleNamespace

import pytest

from data_gen.es3 import ES3Config, build
from data_gen.es3.searchify import SLOTS
from unisc.data.schema import LOG_TABLES

DAY = 86400
T = 5 * DAY
SEARCH, REC, SHOP = range(3)


@pytest.fixture(scope="module")
def built(tmp_path_factory, make_shop, read_samples):
    shop = make_shop().live()
    coat = {"categories": (0, 0, 1), "brand": 1}
    shop.item(10, **coat, title="red wool coat")
    shop.item(11, **coat, title="blue wool coat")
    shop.item(12, **coat, title="rain jacket")
    shop.item(13, categories=(0, 0, 2), brand=7, title="wool scarf")  # shares category_2
    shop.item(14, categories=(5, 5, 5), brand=1, title="lamp")  # shares the brand
    shop.item(15, categories=(6, 6, 6), brand=6, title="red wool coat")  # alike in words alone
    shop.item(16, **coat, title="wool coat red")  # clicked too
    shop.item(20, categories=(9, 9, 9), brand=9, title="garden chair")
    shop.item(21, categories=(9, 9, 9), brand=9, title="xyzzy")
    own, common, rare, near = (shop.query(text) for text in ("own words", "most asked", "less asked", "chair for the garden"))
    made = SimpleNamespace()

    u = shop.user()
    made.feed = shop.request(u, T, shown=[15, 14, 13, 12, 11, 16, 10], domain="rec")
    shop.event(u, 10, T + 5, "rec", request=made.feed)
    shop.event(u, 10, T + 6, "rec", request=made.feed)  # repeated_click
    shop.event(u, 16, T + 7, "rec", request=made.feed)
    shop.event(u, 10, T + 50, "shop", "purchase")
    shop.event(u, 20, T + 60, "shop")  # no_impression_list
    before = shop.request(u, T - 100, shown=[10, 1, 2, 3, 4, 5, 6, 7, 8], query=own)
    shop.event(u, 10, T - 90, request=before)
    beside = shop.request(u, T - 50, shown=[10, 1], query=rare)
    shop.event(u, 10, T, request=beside)  # in the second of the feed request: not before it

    u = shop.user()
    made.alone = shop.request(u, T, shown=[15, 20], domain="shop")
    shop.event(u, 20, T + 5, "shop", request=made.alone)  # no_similar_negative

    u = shop.user()
    made.chairs = shop.request(u, T, shown=[20, 21], domain="shop")
    shop.event(u, 20, T + 5, "shop", request=made.chairs)
    shop.event(u, 20, T + 9, "shop", "purchase", request=made.chairs)
    u = shop.user()
    made.nameless = shop.request(u, T, shown=[20, 21], domain="shop")
    shop.event(u, 21, T + 5, "shop", request=made.nameless)  # no_query: no word of any query
    u = shop.user()
    hidden = shop.request(u, T, shown=[20], hidden=[21], domain="rec")
    shop.event(u, 21, T + 5, "rec", request=hidden)  # not_exposed
    u = shop.user()
    late = shop.request(u, shop.test_start - 5, shown=[20, 21], domain="rec")
    shop.event(u, 20, shop.test_start, "rec", request=late)  # test_period

    # Item 16: `common` twice on earlier days, `rare` once then but three times on the very day of the feed click.
    for query, ts in ((common, T - DAY), (common, T - 2 * DAY), (rare, T - DAY), (rare, T), (rare, T), (rare, T)):
        u = shop.user()
        asked = shop.request(u, ts, shown=[16], query=query)
        shop.event(u, 16, ts + 1, request=asked)

    logs = shop.write(tmp_path_factory.mktemp("searchify") / "logs")
    manifest = build(logs, logs.parent / "out", ES3Config(composition="searchified"), threads=1)
    samples = read_samples(logs.parent / "out")
    pseudo = {}
    for request, row in samples.items():
        assert (request < 0) == (row["origin"] == "searchified")
        if request < 0:
            (positive,) = (i for i, c in row["candidates"].items() if c["click"])
            pseudo[row["user_id"], positive] = row
    users = {r["request_id"]: r["user_id"] for r in shop.rows["requests"]}
    return SimpleNamespace(
        pseudo=pseudo,
        events=shop.rows["events"],
        made=made,
        users=users,
        quality=manifest["quality"],
        own=own,
        common=common,
        near=near,
    )


def test_negatives_are_similar_unclicked_items_of_the_same_list_most_similar_first(built):
    row = built.pseudo[built.users[built.made.feed], 10]
    # 9 train searches show 18 items, so 2 x 2 - 1 = 3 negatives. Scores: 11 shares three category levels, brand and two words
    # (6), 12 levels and brand (4), 13 two levels and a word (3), 14 the brand (1); 15 shares words alone and 16 was clicked.
    assert list(row["candidates"]) == [13, 12, 11, 10], "in the order they were shown"
    negative = row["candidates"][11]
    assert (negative["click"], negative["click_level"], negative["click_origin"], negative["exposed"]) == (0, 0, -1, True)
    assert negative["position"] == 4


def test_pseudo_request_stands_at_its_list_with_the_events_domain(built):
    row = built.pseudo[built.users[built.made.feed], 10]
    assert (row["ts"], row["domain"], row["origin"]) == (T, "rec", "searchified")
    assert row["history_item_id"] == [10], "the search click before, not the click it is made of"
    assert row["candidates"][10]["touches"] == 1
    assert row["candidates"][10]["touch_age"] == 90


def test_labels_of_the_positive(built):
    feed = built.pseudo[built.users[built.made.feed], 10]["candidates"][10]
    assert (feed["click_level"], feed["click_origin"]) == (1, REC)
    assert (feed["purchase_level"], feed["purchase_origin"]) == (2, SHOP)
    chair = built.pseudo[built.users[built.made.chairs], 20]["candidates"][20]
    assert (chair["purchase_level"], chair["purchase_origin"]) == (1, SHOP)


@pytest.mark.parametrize(
    ("feed", "item", "query", "level"), [("feed", 10, "own", 1), ("feed", 16, "common", 2), ("chairs", 20, "near", 3)]
)
def test_query_by_fallback_level(built, feed, item, query, level):
    row = built.pseudo[built.users[getattr(built.made, feed)], item]
    assert (row["query_id"], row["query_level"]) == (getattr(built, query), level)


def test_every_feed_click_has_one_fate(built):
    fates = built.quality["searchification"]
    assert {k: v for k, v in fates.items() if k != "query_level"} == {
        "clicks": 9, "searchified": 3, "test_period": 1, "no_impression_list": 1, "repeated_click": 1, "not_exposed": 1,
        "too_many_clicks": 0, "no_similar_negative": 1, "no_query": 1,
    }  # fmt: skip
    assert {k: v["requests"] for k, v in fates["query_level"].items()} == {
        "own past query": 1, "co-occurring query": 1, "nearest query": 1,
    }  # fmt: skip


def test_logs_without_lists_elsewhere_give_none_and_say_so(tmp_path, shop):
    shop.domains = ("search", "browse")
    shop.live()
    user = shop.user()
    shop.request(user, T, shown=[1])
    shop.event(user, 1, T + 5, "browse")
    shop.dropped = {name: tuple(sorted(LOG_TABLES[name].optional)) for name in ("items", "users", "queries")}
    made = build(shop.write(tmp_path / "logs"), tmp_path / "out", ES3Config(composition="searchified"), threads=1)
    assert made["quality"]["searchification"]["searchified"] == 0
    assert "no click of another domain" in made["quality"]["searchification"]["note"]


def test_a_pseudo_requests_id_says_which_click_it_is_made_of(built):
    for (_, positive), row in built.pseudo.items():
        request, place = divmod(-1 - row["request_id"], SLOTS)
        assert built.users[request] == row["user_id"]
        clicked = sorted({e["item_id"] for e in built.events if e["request_id"] == request and e["kind"] == "click"})
        assert clicked[place] == positive


@pytest.mark.parametrize(
    ("negatives", "expected"),
    [("similar", {0: {1, 2}, 9: {1, 2}}), ("all", {0: {*range(1, 9)}, 9: {*range(1, 9)}}), ("random", None)],
)
def test_which_negatives(tmp_path, shop, read_samples, negatives, expected):
    for i in range(10):
        shop.item(i, categories=(1, 1, 1) if i in (0, 1, 2, 3, 9) else (2, 2, 2))
    user, query = shop.live().user(), shop.query("things")
    shop.event(user, 0, T + 5, request=(asked := shop.request(user, T, shown=[0, 9], query=query)))
    shop.event(user, 9, T + 5, request=asked)
    feed = shop.request(user, T + 60, shown=list(range(10)), domain="rec")
    shop.event(user, 0, T + 65, "rec", request=feed)
    shop.event(user, 9, T + 70, "rec", request=feed)
    logs = shop.write(tmp_path / "logs")
    config = ES3Config(composition="searchified", negatives=negatives)
    build(logs, tmp_path / "out", config, threads=1)
    found = {
        next(i for i, c in row["candidates"].items() if c["click"]): {i for i, c in row["candidates"].items() if not c["click"]}
        for row in read_samples(tmp_path / "out").values()
        if row["origin"] == "searchified"
    }
    if expected:
        assert found == expected
    else:
        # Two searches show three items: 2 x 1.5 - 1 = 2 negatives, drawn from all eight.
        assert {len(items) for items in found.values()} == {2}
        assert all(items <= {*range(1, 9)} for items in found.values())
        build(logs, tmp_path / "other", dataclasses.replace(config, seed=7), threads=1)
        assert read_samples(tmp_path / "out") != read_samples(tmp_path / "other")
