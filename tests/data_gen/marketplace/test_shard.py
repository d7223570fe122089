"""Hidden state: what tires a visitor, what changes a taste, and lists from corners of the configuration."""

import dataclasses

import numpy as np
import pytest

from data_gen.marketplace import candidates
from data_gen.marketplace.calibrate import open_world
from data_gen.marketplace.config import REC, SEARCH
from data_gen.marketplace.shard import simulate_shard
from data_gen.marketplace.timeline import build_timeline
from data_gen.marketplace.visitors import MAX_SHOWN, Fatigue, arrive, drift


@pytest.fixture(scope="module")
def world(default_config):
    return open_world(default_config)


def visitors(world, users=6):
    return arrive(world, np.random.default_rng(1), np.arange(users))


def test_views_without_a_click_tire_and_a_click_refreshes(world):
    fatigue, user = Fatigue.none_yet(world.config, 6), np.array([0, 1])
    assert fatigue is not None
    row, item = np.array([0, 0, 1]), np.array([5, 6, 5], dtype=np.int32)
    leaf, domain = world.leaf[item], np.array([SEARCH, SEARCH])

    def tired():
        return fatigue.logit(world.config, user, row, item, leaf, domain)

    assert (tired() == 0).all()
    nobody = np.empty(0, dtype=np.int64)
    for _ in range(3):
        fatigue.see(user, domain, row, item, leaf, nobody, nobody)
    np.testing.assert_allclose(tired(), 3 * world.config.fatigue_scale, rtol=1e-6)
    fatigue.see(user, domain, row, item, leaf, np.array([0]), np.array([6]))
    np.testing.assert_allclose(tired() / world.config.fatigue_scale, [4, 0, 4], rtol=1e-6)
    for _ in range(300):
        fatigue.see(user, domain, row, item, leaf, nobody, nobody)
    np.testing.assert_allclose(tired() / world.config.fatigue_scale, MAX_SHOWN, rtol=1e-6)


def test_a_category_seen_again_and_again_tires_in_the_feed_only(world):
    fatigue, user = Fatigue.none_yet(world.config, 6), np.array([0, 1])
    assert fatigue is not None
    row, item = np.array([0, 1]), np.array([5, 5], dtype=np.int32)
    nobody = np.empty(0, dtype=np.int64)
    fatigue.see(user, np.array([REC, SEARCH]), row, item, world.leaf[item], nobody, nobody)
    fatigue.shown[:] = 0
    tired = fatigue.logit(world.config, user, row, item, world.leaf[item], np.array([REC, REC]))
    assert tired[0] > 0 and tired[1] == 0


def test_tastes_walk_with_the_days_and_stand_still_in_the_stationary_preset(world, stationary_config):
    for w, moves in ((world, True), (open_world(stationary_config), False)):
        v, user = visitors(w), np.arange(6)
        taste, interests = v.taste.copy(), v.interests.copy()
        drift(w, np.random.default_rng(0), v, user, w.segment[user], np.zeros(6, dtype=np.int64))
        np.testing.assert_allclose(v.taste, taste, rtol=1e-6)
        np.testing.assert_array_equal(v.interests, interests)
        drift(w, np.random.default_rng(0), v, user, w.segment[user], np.full(6, 100))
        assert (np.abs(v.taste - taste).max() > 0.5) == moves
        assert bool((v.interests != interests).any()) == moves


def test_order_by_is_a_stable_sort_by_row_and_falling_score():
    rng = np.random.default_rng(0)
    row = np.sort(rng.integers(0, 50, 2_000))
    start = np.searchsorted(row, np.arange(50))
    score = np.round(rng.standard_normal(2_000), 1).astype(np.float32)
    score[::7] *= 1e-30
    score[::11] *= 1e30
    order = candidates.order_by(row, start, score)
    np.testing.assert_array_equal(order, np.lexsort((np.arange(2_000), -score, row)))


@pytest.mark.parametrize(
    "corner",
    [
        {"users": 1, "requests": 1},
        {"users": 3, "requests": 200},
        {"search_share": 0.0, "rec_share": 0.0},
        {"search_share": 1.0, "rec_share": 0.0},
        {"shops": 1, "brands": 1, "segments": 1, "category_1": 1},
        {"category_1": 30, "category_2": 30, "queries": 30},
        {"candidates_min": 50, "candidates_max": 50, "exposed_min": 50, "exposed_max": 50},
        {"fatigue_scale": 0.0, "drift": 0.0, "retargeting": 1.0},
        {"items": 12 * 80 + 480},
        {"days": 2, "session_length": 1.0, "new_items_per_day": 200},
    ],
)
def test_corners_still_make_full_lists(default_config, corner):
    config = dataclasses.replace(default_config, **{"users": 30, "requests": 150, "users_per_shard": 30, **corner})
    world = open_world(config)
    turns = list(simulate_shard(world, 0))
    assert sum(len(t.request_id) for t in turns) == config.requests
    for turn in turns:
        assert turn.sizes.min() >= config.candidates_min and turn.sizes.max() <= config.candidates_max
        assert np.isfinite(turn.p_click).all() and (turn.p_click > 0).all() and (turn.p_click < 1).all()


def test_timelines_stay_inside_the_logs_however_crowded(world):
    counts = np.array([0, 1, 3_000, 20_000])
    timeline = build_timeline(world, np.random.default_rng(0), counts)
    assert np.bincount(timeline.user, minlength=4).tolist() == counts.tolist()
    same = np.diff(timeline.user) == 0
    assert (np.diff(timeline.ts)[same] > 0).all()
    assert timeline.ts.max() < world.config.end_ts and timeline.ts.min() >= world.config.end_ts - world.config.days * 86_400
