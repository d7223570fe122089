"""The candidate lists of one turn: what each request is about, and the candidates that a ranker will order."""

from dataclasses import dataclass

import numpy as np

from data_gen.marketplace import behaviour, candidates
from data_gen.marketplace.config import DAY, HOUR_BUCKETS, SEARCH, START_TS
from data_gen.marketplace.timeline import Timeline
from data_gen.marketplace.visitors import INTERESTS, RECENT_SECONDS, Visitors, drift
from data_gen.marketplace.world import World, context_code

SESSION_REPEATS = 0.35
"""Share of searches that stay in the category of the visitor's last search."""
SHOP_FROM_RECENT = 0.5
"""Share of shop pages that are the shop of a recently considered item."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lists:
    """Requests (R,) of one turn, no visitor twice, and their candidates (N,) in order of request and pre-rank.

    `user` is the visitor's place among those simulated, `user_id` the visitor; `start` and `sizes` (R,) say where each list
    lies. `logit` is the true click logit in the top slot before fatigue.
    """

    user: np.ndarray
    user_id: np.ndarray
    ts: np.ndarray
    domain: np.ndarray
    query: np.ndarray
    scene: np.ndarray
    shop: np.ndarray
    leaf: np.ndarray  # the query's, meant in search only
    page: behaviour.Page
    num_exposed: np.ndarray
    start: np.ndarray
    sizes: np.ndarray
    row: np.ndarray
    item: np.ndarray
    rank: np.ndarray
    logit: np.ndarray

    def top(self, score: np.ndarray) -> np.ndarray:
        """Return each candidate's slot (N,), int16, when the best by `score` (N,) are shown; -1 where it is not."""
        by_slot = candidates.order_by(self.row, self.start, score)
        slot = np.arange(len(self.row)) - np.repeat(self.start, self.sizes)
        shown = slot < np.repeat(np.minimum(self.num_exposed, self.sizes), self.sizes)
        position = np.full(len(self.row), -1, dtype=np.int16)
        position[by_slot[shown]] = slot[shown]
        return position


def make_lists(
    world: World, rng: np.random.Generator, v: Visitors, timeline: Timeline, at: np.ndarray, users: np.ndarray
) -> Lists:
    """Make the lists of the timeline's requests `at`; `users` are the ids of all visitors simulated."""
    c = world.config
    user, ts, domain = timeline.user[at], timeline.ts[at], timeline.domain[at]
    user_id = users[user]
    segment = world.segment[user_id]
    drift(world, rng, v, user, segment, (ts - START_TS) // DAY)
    n = len(at)
    interests = v.interests[user]
    recent = np.where((ts[:, None] - v.recent_ts[user] < RECENT_SECONDS)[..., None], v.recent[user], -1).reshape(n, -1)

    # What each request is about.
    wanted = interests[np.arange(n), rng.integers(INTERESTS, size=n)]
    repeats = (rng.random(n) < SESSION_REPEATS) & (v.search_leaf[user] >= 0)
    wanted = np.where(repeats, v.search_leaf[user], wanted)
    query = world.query_of_leaf.draw(rng, wanted)
    seen = recent[np.arange(n), rng.integers(recent.shape[1], size=n)]
    shop = world.shop[np.where((rng.random(n) < SHOP_FROM_RECENT) & (seen >= 0), seen, rng.integers(0, c.items, n))]
    leaf = world.query_leaf[query]
    carried = np.where((domain != SEARCH) & (ts - v.search_ts[user] < behaviour.CARRY_SECONDS), v.search_leaf[user], -1)
    page = behaviour.Page(
        domain=domain,
        segment=segment,
        budget=world.budget[user_id],
        hour=(ts % DAY) * HOUR_BUCKETS // DAY,
        context=context_code(world, domain, query, timeline.scene[at], shop),
        taste=(
            np.float32(np.sqrt(1 - c.user_taste)) * world.segment_factors[segment]
            + np.float32(np.sqrt(c.user_taste)) * v.taste[user]
        ),
        interests=interests,
        carried_leaf=carried,
    )

    # Recall, pre-rank, cut.
    draws = (timeline.num_candidates[at] * candidates.POOL_FACTOR).astype(np.int64) + candidates.POOL_EXTRA
    where = {"domain": domain, "leaf": leaf, "shop": shop}
    row, item = candidates.recall(world, rng, **where, interests=interests, recent=recent, draws=draws)
    row, item = candidates.distinct(world, row, item, ts)
    row, item = candidates.top_up(world, rng, row, item, ts=ts, **where)
    coarse = behaviour.coarse_utility(world, page, row, item)
    pool = np.bincount(row, minlength=n)
    start = np.cumsum(pool) - pool
    order = candidates.order_by(row, start, candidates.prerank_score(world, rng, coarse, item))
    sizes = np.minimum(pool, timeline.num_candidates[at])
    rank = np.arange(len(order)) - np.repeat(start, pool)
    kept = rank < np.repeat(sizes, pool)
    order, rank = order[kept], rank[kept]
    row, item, coarse = row[order], item[order], coarse[order]
    return Lists(
        user=user,
        user_id=user_id,
        ts=ts,
        domain=domain,
        query=query,
        scene=timeline.scene[at],
        shop=shop,
        leaf=leaf,
        page=page,
        num_exposed=timeline.num_exposed[at],
        start=np.cumsum(sizes) - sizes,
        sizes=sizes,
        row=row,
        item=item,
        rank=rank,
        logit=behaviour.utility(world, page, row, item, coarse),
    )
