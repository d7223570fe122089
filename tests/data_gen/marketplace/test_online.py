"""Rankers in charge of the shop: what is common to their worlds, what is not, and what follows from what was shown."""

import dataclasses

import numpy as np
import pytest

from data_gen.marketplace.calibrate import open_world
from data_gen.marketplace.config import DOMAINS, SEARCH
from data_gen.marketplace.online import METRICS, SEGMENTS, TAIL, Terms, contest
from data_gen.marketplace.takeover import standing
from unisc.data.schema import KINDS

CHARGE, OTHER, ALL = (SEGMENTS.index(name) for name in ("in charge", "other pages", "all pages"))


@pytest.fixture(scope="module")
def world(default_config):
    return open_world(default_config)


@pytest.fixture(scope="module")
def taken(world):
    return standing(world, 1, world.config.test_start)


def run(world, taken, policies, *, seed=0, lives=2, requests=12, in_charge=(SEARCH,)):
    terms = Terms(
        start_ts=world.config.test_start,
        days=7,
        in_charge=in_charge,
        query_class=np.arange(world.config.queries) % (TAIL + 1),
    )
    counts = np.full((lives, len(taken.users)), requests)
    return contest(world, taken, policies, terms, counts=counts, first_life=0, seed=(seed,))


def test_the_shop_is_taken_over_with_the_events_of_its_own_logs(world, taken, default_logs, query):
    c = world.config
    sql = f"""
        SELECT e.user_id, e.ts, e.item_id, e.kind, e.domain FROM {{events}} e
        JOIN (SELECT user_id, item_id, ts, domain, kind, request_id FROM {{events}} WHERE request_id IS NOT NULL
              UNION ALL SELECT user_id, item_id, ts, domain, kind, request_id FROM {{causes}}) w
        USING (user_id, item_id, ts, domain, kind) JOIN {{requests}} r ON r.request_id = w.request_id
        WHERE r.ts < {c.test_start} AND e.user_id BETWEEN {taken.users[0]} AND {taken.users[-1]}
    """
    logged = query(default_logs, sql)
    kind = np.array([KINDS.index(k) for k in logged["kind"]])
    domain = np.array([DOMAINS.index(d) for d in logged["domain"]])
    log = taken.events
    ours = np.stack([taken.users[log.user], log.ts, log.item, log.kind, log.domain])
    theirs = np.stack([logged["user_id"], logged["ts"], logged["item_id"], kind, domain])
    np.testing.assert_array_equal(ours[:, np.lexsort(ours)], theirs[:, np.lexsort(theirs)])
    assert len(log.ts) > 100 and (taken.visitors.day >= 0).all() and taken.shown[2].min() > 0


def test_one_ranker_in_two_worlds_sells_the_same_to_everybody(world, taken):
    seen = [[], []]

    def watching(k):
        def policy(asked):
            seen[k].append((asked.user_id, asked.ts, asked.query, asked.item, asked.events.item))
            return -asked.rank.astype(np.float32)

        return policy

    out = run(world, taken, [watching(0), watching(1)])
    np.testing.assert_array_equal(out.sums[0], out.sums[1])
    assert out.sums[0, :, CHARGE].sum() > 0
    for a, b in zip(*seen, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


def test_worlds_share_lists_and_no_ranker_changes_another_ones_world(world, taken):
    alone, beside = run(world, taken, ["random"]), run(world, taken, ["oracle", "random"])
    np.testing.assert_array_equal(alone.sums[0], beside.sums[1])
    np.testing.assert_array_equal(alone.requests, beside.requests)
    other = run(world, taken, ["random"], seed=1)
    assert (other.sums[0, :, ALL] != alone.sums[0, :, ALL]).any()


def test_a_better_order_sells_more_and_tires_less_elsewhere(world, taken):
    out = run(world, taken, ["random", "shop", "oracle"], lives=6)
    clicks, purchases = (out.sums[:, :, CHARGE, METRICS.index(m)].sum(axis=1) for m in ("clicks", "purchases"))
    for sold in (clicks, purchases):
        assert sold[0] < 0.7 * sold[1] and sold[1] < sold[2]
    # What a search shows tires its visitor of it in the feed too.
    assert (out.sums[0, :, OTHER] != out.sums[2, :, OTHER]).any()
    parts = [SEGMENTS.index(f"{name} queries") for name in ("head", "torso", "tail")]
    np.testing.assert_allclose(out.sums[:, :, parts].sum(axis=2), out.sums[:, :, CHARGE])
    np.testing.assert_allclose(out.sums[:, :, [CHARGE, OTHER]].sum(axis=2), out.sums[:, :, ALL])
    np.testing.assert_array_equal(out.requests[:, ALL], 12)


def test_without_fatigue_pages_of_others_are_the_same_in_all_worlds(stationary_config):
    world = open_world(stationary_config)
    out = run(world, standing(world, 0, stationary_config.test_start), ["random", "oracle"])
    np.testing.assert_array_equal(out.sums[0, :, OTHER], out.sums[1, :, OTHER])
    assert out.sums[0, :, CHARGE].sum() < out.sums[1, :, CHARGE].sum()


def test_in_charge_of_all_pages_nothing_is_left_to_the_shop(world, taken):
    out = run(world, taken, ["random", "shop"], in_charge=(0, 1, 2))
    assert (out.requests[:, OTHER] == 0).all() and (out.requests[:, CHARGE] == 12).all()
    assert out.sums[0, :, CHARGE, 0].sum() < out.sums[1, :, CHARGE, 0].sum()


def test_a_visitors_history_grows_by_what_its_own_world_showed(world, taken):
    found = {}

    def policy(name, order):
        def score(asked):
            before = asked.events.ts < world.config.test_start
            found.setdefault(name, []).append((len(before), int(before.sum())))
            return order(asked)

        return score

    run(world, taken, [policy("best", lambda a: -a.rank.astype(np.float32)), policy("worst", lambda a: a.rank + 0.0)])
    assert found["best"][0][1] == found["worst"][0][1] == 2 * (taken.events.ts < world.config.test_start).sum()
    assert found["best"][-1][0] > found["worst"][-1][0] > found["worst"][0][0]


def test_new_items_count_only_where_there_are_any(world, taken):
    new = SEGMENTS.index("new items")
    assert run(world, taken, ["oracle"], lives=6).sums[0, :, new, 0].sum() > 0
    calm = open_world(dataclasses.replace(world.config, new_items_per_day=0))
    assert run(calm, standing(calm, 1, calm.config.test_start), ["oracle"]).sums[0, :, new].sum() == 0
