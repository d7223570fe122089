"""The oracle tells the truth: frequencies match it, and in the stationary preset it is a function of what is observed."""

import dataclasses

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from data_gen.marketplace import behaviour
from data_gen.marketplace.calibrate import open_world
from data_gen.marketplace.config import SCENES

EXPOSED = """SELECT o.p_click AS p, o.p_click_top AS top, o.p_purchase AS buy, c.position AS position,
                    e.request_id IS NOT NULL AS click
             FROM {candidates} c JOIN {oracle} o USING (request_id, item_id)
             LEFT JOIN (SELECT request_id, item_id FROM {events} WHERE kind = 'click') e USING (request_id, item_id)
             WHERE c.exposed"""


@pytest.mark.parametrize("which", ["default_logs", "stationary_logs"])
def test_click_frequencies_match_the_oracle_in_every_bin(which, request, query):
    got = query(request.getfixturevalue(which), EXPOSED)
    p, y = got["p"].astype(np.float64), got["click"].astype(np.float64)
    bins = np.searchsorted(np.quantile(p, np.linspace(0, 1, 11)[1:-1]), p)
    for b in range(10):
        here = bins == b
        z = (y[here] - p[here]).sum() / np.sqrt((p[here] * (1 - p[here])).sum())
        assert abs(z) < 4, (b, z)


def test_all_purchases_match_the_oracle_apart_from_those_after_the_end(stationary_logs, stationary_config, query):
    # Purchases take up to 48 h, so only pages of the first days have all of theirs.
    early = stationary_config.end_ts - 2 * 86_400
    expected = query(
        stationary_logs,
        f"""SELECT sum(p_purchase) AS n FROM {{oracle}} JOIN {{candidates}} c USING (request_id, item_id)
            JOIN {{requests}} r USING (request_id) WHERE c.exposed AND r.ts < {early}""",
    )["n"][0]
    found = query(
        stationary_logs,
        f"""SELECT count(*) AS n FROM {{events}} b JOIN {{events}} k ON k.kind = 'click' AND k.user_id = b.user_id
            AND k.item_id = b.item_id JOIN {{requests}} r ON r.request_id = k.request_id
            WHERE b.kind = 'purchase' AND r.ts < {early} AND (b.request_id = k.request_id OR (b.request_id IS NULL AND k.ts =
              (SELECT max(ts) FROM {{events}} x WHERE x.kind = 'click' AND x.user_id = b.user_id AND x.item_id = b.item_id
               AND x.ts < b.ts)))""",
    )["n"][0]
    assert abs(found - expected) < 4 * np.sqrt(expected)


def test_the_top_slot_is_the_best_and_unexposed_candidates_are_scored_as_if_in_it(default_logs, query):
    got = query(default_logs, EXPOSED)
    assert (got["top"] >= got["p"] - 1e-6).all()
    at_top = got["position"] == 0
    np.testing.assert_allclose(got["p"][at_top], got["top"][at_top], rtol=1e-5)
    assert (got["buy"] <= got["p"]).all()
    hidden = query(
        default_logs,
        "SELECT p_click, p_click_top FROM {oracle} JOIN {candidates} c USING (request_id, item_id) WHERE NOT exposed",
    )
    np.testing.assert_array_equal(hidden["p_click"], hidden["p_click_top"])


def test_stationary_clicks_are_a_function_of_the_written_columns(stationary_logs, stationary_config, query):
    """Rebuild p_click of every candidate from the tables and the rule tables alone, row by row fields, no state."""
    world = open_world(stationary_config)
    rules = world.rules
    got = query(
        stationary_logs,
        """SELECT r.domain AS domain, r.ts AS ts, coalesce(r.query_id, 0) AS query, coalesce(r.scene, 0) AS scene,
                  coalesce(r.shop_id, 0) AS shop, u.segment AS segment, u.budget AS budget, c.item_id AS item,
                  coalesce(c.position, 0) AS position, c.price AS price, i.category_1 AS c1, i.category_2 AS c2,
                  i.category_3 AS c3, i.brand_id AS brand, o.p_click AS p
           FROM {candidates} c JOIN {oracle} o USING (request_id, item_id) JOIN {requests} r USING (request_id)
           JOIN {users} u USING (user_id) JOIN {items} i USING (item_id) ORDER BY c.request_id, c.rank LIMIT 60000""",
    )
    g = {k: np.asarray(v) for k, v in got.items()}
    d = np.select([g["domain"] == "search", g["domain"] == "rec"], [0, 1], 2)
    context = np.select([d == 0, d == 1], [g["query"], stationary_config.queries + g["scene"]], 0)
    context = np.where(d == 2, stationary_config.queries + SCENES + g["shop"], context)
    hour = g["ts"] % 86_400 // 10_800
    edges = np.quantile(world.price, np.linspace(0, 1, 11)[1:-1])
    logs = np.log(world.price)
    z = (np.log(g["price"]) - logs.mean()) / logs.std()

    logit = world.bias[d] + rules.context[context]
    logit = logit + rules.brand[d, g["brand"]] + rules.leaf[d, g["c3"]] + rules.leaf_brand[d, g["c3"], g["brand"]]
    logit += rules.segment_category_1[d, g["segment"], g["c1"]] + rules.segment_leaf[d, g["segment"], g["c3"]]
    logit += rules.segment_brand[d, g["segment"], g["brand"]] + rules.hour_category_2[d, hour, g["c2"]]
    logit += rules.budget_price[d, g["budget"], np.searchsorted(edges, g["price"], side="right")]
    logit += rules.context_leaf[context, g["c3"]] + rules.context_brand[context, g["brand"]]
    table = pq.read_table(stationary_logs / "items", columns=["item_id", "attribute_ids"]).sort_by("item_id")
    lists = table["attribute_ids"].to_pylist()
    assert pc.max(pc.list_value_length(table["attribute_ids"])).as_py() <= 4
    for i, item in enumerate(g["item"].tolist()):
        for a in lists[item]:
            logit[i] += rules.leaf_attribute[d[i], g["c3"][i], a] + rules.segment_attribute[d[i], g["segment"][i], a]
            logit[i] += rules.context_attribute[context[i], a]
    slope = stationary_config.price_scale * np.array([-1.6, -1.1, -0.6, -0.1, 0.4])
    logit += slope[g["budget"]] * z
    taste = (world.segment_factors[g["segment"]] * world.item_factors[g["item"]]).sum(axis=1)
    logit += stationary_config.taste_scale / np.sqrt(8) * taste
    depth = np.log1p(g["position"]) / np.log(20)
    strength = (1.3 - 0.6 * world.trust[g["segment"]]) * np.array([1.0, 0.7, 0.8])[d]
    logit -= stationary_config.position_scale * strength * depth
    np.testing.assert_allclose(g["p"], 1 / (1 + np.exp(-logit)), rtol=1e-3, atol=2e-6)


def page(world, n, **changes):
    rng = np.random.default_rng(0)
    c = world.config
    fields = {
        "domain": rng.integers(0, 3, n),
        "segment": rng.integers(0, c.segments, n).astype(np.int32),
        "budget": rng.integers(0, 5, n).astype(np.int32),
        "hour": rng.integers(0, 8, n),
        "context": rng.integers(0, c.queries, n),
        "taste": np.zeros((n, 8), dtype=np.float32),
        "interests": np.zeros((n, 4), dtype=np.int32),
        "carried_leaf": np.full(n, -1, dtype=np.int32),
    }
    return behaviour.Page(**{**fields, **changes})


def utility(world, page, item):
    row = np.arange(len(item))
    return behaviour.utility(world, page, row, item, behaviour.coarse_utility(world, page, row, item))


def test_interests_and_carried_searches_move_only_the_default_preset(default_config, stationary_config):
    for config, moved in ((default_config, True), (stationary_config, False)):
        world = open_world(config)
        item = np.arange(500, dtype=np.int32)
        plain = utility(world, page(world, 500), item)
        liked = utility(world, page(world, 500, interests=np.repeat(world.leaf[item, None], 4, axis=1)), item)
        carried = utility(world, page(world, 500, carried_leaf=world.leaf[item]), item)
        assert bool((liked > plain).any()) == moved
        assert bool((carried > plain).any()) == moved


@pytest.mark.parametrize("overlap", [0.0, 0.7, 1.0])
def test_overlap_is_the_correlation_of_rules_between_domains(default_config, overlap):
    config = dataclasses.replace(default_config, domain_overlap=overlap)
    table = open_world(config).rules.segment_leaf
    for other in (1, 2):
        assert np.corrcoef(table[0].ravel(), table[other].ravel())[0, 1] == pytest.approx(overlap, abs=0.15)


def test_the_bias_meets_the_wanted_click_rate(default_config, stationary_config, stationary_logs, query):
    got = query(stationary_logs, EXPOSED)["p"].mean()
    assert got == pytest.approx(stationary_config.click_rate * 0.93, rel=0.25)
    low, high = (open_world(dataclasses.replace(default_config, click_rate=r)).bias for r in (0.05, 0.3))
    assert (high > low + 1).all()
