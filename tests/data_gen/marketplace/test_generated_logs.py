"""The tables keep their contracts: schemas, keys, lists, times, creation dates."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_gen.marketplace.config import MarketplaceConfig
from unisc.data import manifest
from unisc.data.schema import CAUSES, KINDS, LOG_TABLES, ORACLE


def one(query, logs, sql):
    return next(iter(query(logs, sql).values()))[0]


TABLES = {**LOG_TABLES, "oracle": ORACLE, "causes": CAUSES}


@pytest.mark.parametrize("name", TABLES)
def test_every_part_has_exactly_the_declared_schema(default_logs, name):
    declared = TABLES[name].columns
    if name == "candidates":  # the shop's ranker is deterministic
        declared = declared.remove(declared.get_field_index("propensity"))
    parts = sorted((default_logs / name).glob("part-*.parquet"))
    assert parts
    for part in parts:
        assert pq.read_schema(part).equals(declared), part


@pytest.mark.parametrize("name", TABLES)
def test_keys_are_unique_and_nulls_only_where_declared(default_logs, query, name):
    schema = TABLES[name]
    if schema.key:
        key = ", ".join(schema.key)
        repeated = f"SELECT count(*) FROM (SELECT {key} FROM {{{name}}} GROUP BY {key} HAVING count(*) > 1)"
        assert one(query, default_logs, repeated) == 0
    for column in set(schema.columns.names) - schema.nullable:
        assert one(query, default_logs, f"SELECT count(*) FROM {{{name}}} WHERE {column} IS NULL") == 0


def test_manifest_counts_what_was_written(default_logs, default_config: MarketplaceConfig, query):
    made = manifest.read(default_logs, kind="logs", verify=True)
    for name, rows in made["counts"].items():
        assert one(query, default_logs, f"SELECT count(*) FROM {{{name}}}") == rows
    assert made["counts"]["requests"] == default_config.requests
    assert made["domains"] == ["search", "rec", "shop"]
    assert made["end_ts"] - made["test_start"] == 86_400
    assert made["preset"] == "default"


def test_ids_are_dense_and_references_hold(default_logs, default_config, query):
    for table, column, count in (("items", "item_id", 3_000), ("users", "user_id", 160), ("queries", "query_id", 90)):
        got = np.sort(query(default_logs, f"SELECT {column} FROM {{{table}}}")[column])
        np.testing.assert_array_equal(got, np.arange(count))
    requests = np.sort(query(default_logs, "SELECT request_id FROM {requests}")["request_id"])
    np.testing.assert_array_equal(requests, np.arange(default_config.requests))
    orphans = "SELECT count(*) FROM {candidates} WHERE request_id NOT IN (SELECT request_id FROM {requests})"
    assert one(query, default_logs, orphans) == 0


def test_context_columns_are_those_of_the_domain(default_logs, query):
    wrong = """SELECT count(*) FROM {requests} WHERE (domain = 'search') <> (query_id IS NOT NULL)
               OR (domain = 'rec') <> (scene IS NOT NULL) OR (domain = 'shop') <> (shop_id IS NOT NULL)"""
    assert one(query, default_logs, wrong) == 0
    foreign = """SELECT count(*) FROM {candidates} c JOIN {requests} r USING (request_id) JOIN {items} i USING (item_id)
                 WHERE r.domain = 'shop' AND i.shop_id <> r.shop_id"""
    assert one(query, default_logs, foreign) == 0


def test_lists_are_50_to_200_with_a_page_of_10_to_20_on_top(default_logs, query):
    got = query(
        default_logs,
        """SELECT count(*) AS n, count(DISTINCT item_id) AS items, min(rank) AS first, max(rank) AS last,
                  count(DISTINCT rank) AS ranks, count(*) FILTER (WHERE exposed) AS shown,
                  count(DISTINCT position) AS slots, max(position) AS bottom,
                  count(*) FILTER (WHERE exposed <> (position IS NOT NULL)) AS unequal
           FROM {candidates} GROUP BY request_id""",
    )
    assert got["n"].min() >= 50 and got["n"].max() <= 200 and 80 < got["n"].mean() < 120
    np.testing.assert_array_equal(got["items"], got["n"])
    np.testing.assert_array_equal(got["ranks"], got["n"])
    np.testing.assert_array_equal(got["last"], got["n"] - 1)
    assert (got["first"] == 0).all() and (got["unequal"] == 0).all()
    assert got["shown"].min() >= 10 and got["shown"].max() <= 20
    np.testing.assert_array_equal(got["slots"], got["shown"])
    np.testing.assert_array_equal(got["bottom"], got["shown"] - 1)


def test_a_users_requests_are_strictly_ordered_in_time(default_logs, default_config, query):
    got = query(default_logs, "SELECT user_id, ts FROM {requests} ORDER BY user_id, request_id")
    same = got["user_id"][1:] == got["user_id"][:-1]
    assert (np.diff(got["ts"])[same] > 0).all()
    assert got["ts"].max() < default_config.end_ts
    assert 0.03 < (got["ts"] >= default_config.test_start).mean() < 0.3


def test_events_follow_an_exposure_and_end_with_the_logs(default_logs, default_config, query):
    late = f"SELECT count(*) FROM {{events}} WHERE ts >= {default_config.end_ts}"
    assert one(query, default_logs, late) == 0
    assert set(query(default_logs, "SELECT DISTINCT kind FROM {events}")["kind"]) == set(KINDS)
    unfounded = """SELECT count(*) FROM {events} e LEFT JOIN {requests} r USING (request_id)
                   LEFT JOIN {candidates} c USING (request_id, item_id)
                   WHERE e.request_id IS NOT NULL
                   AND (r.user_id <> e.user_id OR r.domain <> e.domain OR e.ts <= r.ts OR c.exposed IS NOT TRUE)"""
    assert one(query, default_logs, unfounded) == 0


def test_purchases_finish_elsewhere_within_48_hours_of_a_click(default_logs, default_config, query):
    got = query(
        default_logs,
        """SELECT p.ts - max(k.ts) AS delay, p.domain AS domain, arg_max(k.domain, k.ts) AS origin, p.kind AS kind
           FROM {events} p LEFT JOIN {events} k ON k.kind = 'click' AND k.user_id = p.user_id AND k.item_id = p.item_id
           AND k.ts < p.ts WHERE p.request_id IS NULL GROUP BY p.user_id, p.item_id, p.ts, p.domain, p.kind""",
    )
    assert len(got["delay"]) > 20 and set(got["kind"]) == {"purchase"}
    assert not np.ma.is_masked(got["delay"])
    assert got["delay"].min() > 0 and got["delay"].max() <= 48 * 3_600
    assert set(got["domain"]) <= {"rec", "shop"}
    share = one(query, default_logs, "SELECT avg((request_id IS NULL)::INT) FROM {events} WHERE kind = 'purchase'")
    assert default_config.finish_elsewhere - 0.15 < share < default_config.finish_elsewhere + 0.1


def test_new_items_are_candidates_only_after_they_are_made(default_logs, default_config, query):
    early = """SELECT count(*) FROM {candidates} JOIN {requests} r USING (request_id) JOIN {items} i USING (item_id)
               WHERE i.created_ts >= r.ts"""
    assert one(query, default_logs, early) == 0
    first_ts = default_config.end_ts - default_config.days * 86_400
    new = f"SELECT count(*) FROM {{items}} WHERE created_ts >= {first_ts}"
    assert one(query, default_logs, new) == 60 * 8
    met = f"""SELECT count(DISTINCT item_id) FROM {{candidates}} JOIN {{items}} i USING (item_id)
              WHERE i.created_ts >= {first_ts} AND i.created_ts < {default_config.test_start}"""
    assert one(query, default_logs, met) > 100


def test_titles_and_queries_are_made_of_the_same_words(default_logs, query):
    items = query(default_logs, "SELECT title, category_3, brand_id FROM {items}")
    titles = [t.split() for t in items["title"]]
    leaf_word = {leaf: words[-1] for leaf, words in zip(items["category_3"], titles, strict=True)}
    brand_word = {brand: words[0] for brand, words in zip(items["brand_id"], titles, strict=True)}
    assert all(leaf_word[leaf] == words[-1] for leaf, words in zip(items["category_3"], titles, strict=True))
    assert len(set(leaf_word.values())) == len(leaf_word) and not set(leaf_word.values()) & set(brand_word.values())
    queries = query(default_logs, "SELECT text, category_3 FROM {queries} WHERE category_3 IS NOT NULL")
    spelled = [leaf_word[leaf] in text.split() for leaf, text in zip(queries["category_3"], queries["text"], strict=True)]
    assert 0.8 < np.mean(spelled) <= 1.0  # some are misspelled


def test_causes_name_an_earlier_click_of_the_same_user_on_the_item_for_every_event_on_no_request(default_logs, query):
    assert one(query, default_logs, "SELECT count(*) FROM {causes}") > 0
    events = "SELECT user_id, item_id, ts, domain, kind FROM {events} WHERE request_id IS NULL"
    causes = "SELECT user_id, item_id, ts, domain, kind FROM {causes}"
    for one_way in (f"({events}) EXCEPT ALL ({causes})", f"({causes}) EXCEPT ALL ({events})"):
        assert one(query, default_logs, f"SELECT count(*) FROM ({one_way})") == 0
    clicked = """SELECT count(*) FROM {causes} c WHERE EXISTS (SELECT 1 FROM {events} e JOIN {requests} r USING (request_id)
        WHERE e.request_id = c.request_id AND e.item_id = c.item_id AND e.user_id = c.user_id AND e.kind = 'click'
        AND e.ts < c.ts AND r.domain <> c.domain)"""
    assert one(query, default_logs, clicked) == one(query, default_logs, "SELECT count(*) FROM {causes}")
