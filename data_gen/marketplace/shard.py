"""One shard: a block of visitors simulated from their first request to their last, written as it goes.

Turn by turn: the first request of everyone together, then the second, and so on, so that a later request can depend on what
was seen before it while all arithmetic stays in arrays.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data_gen.marketplace import behaviour, candidates
from data_gen.marketplace.config import DAY, HOUR_BUCKETS, REC, SEARCH, SHOP, START_TS, MarketplaceConfig
from data_gen.marketplace.timeline import Timeline, build_timeline
from data_gen.marketplace.world import TASTE_DIM, World, context_code

RECENT_SEARCHES, RECENT_ITEMS = 2, 24
"""Retargeting remembers this many searches of a visitor and this many items of each."""
RECENT_SECONDS = 2 * DAY
INTERESTS = 4
SESSION_REPEATS = 0.35
"""Share of searches that stay in the category of the visitor's last search."""
SHOP_FROM_RECENT = 0.5
"""Share of shop pages that are the shop of a recently considered item."""
MAX_SHOWN = 4
ELSEWHERE_SECONDS = 2 * DAY
CLICK, CART, PURCHASE = range(3)


@dataclass(kw_only=True, slots=True)
class Visitors:
    """What changes from turn to turn; one row a visitor of the shard."""

    taste: np.ndarray  # (U, k) the visitor's own part
    interests: np.ndarray  # (U, INTERESTS) leaves
    day: np.ndarray
    search_leaf: np.ndarray
    search_ts: np.ndarray
    recent: np.ndarray  # (U, RECENT_SEARCHES, RECENT_ITEMS) items, -1 none
    recent_ts: np.ndarray  # (U, RECENT_SEARCHES)
    shown: np.ndarray | None  # (U, I) times shown without a click since the last click
    leaf_shown: np.ndarray | None  # (U, L) share of the session's feed in each leaf, fading


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """What one turn leaves: columns of the log tables. Candidates are in order of request and pre-rank."""

    request_id: np.ndarray
    user_id: np.ndarray
    ts: np.ndarray
    domain: np.ndarray
    query: np.ndarray
    scene: np.ndarray
    shop: np.ndarray
    sizes: np.ndarray  # candidates of each request
    item: np.ndarray
    rank: np.ndarray
    position: np.ndarray  # -1 if not exposed
    p_click: np.ndarray
    p_purchase: np.ndarray
    p_click_top: np.ndarray
    event_request: np.ndarray  # index into this turn's requests
    event_item: np.ndarray
    event_ts: np.ndarray
    event_domain: np.ndarray
    event_kind: np.ndarray
    event_here: np.ndarray  # whether it happened on the request


def simulate_shard(world: World, shard: int) -> Iterator[Turn]:
    """Yield the turns of a shard; deterministic by (seed, shard)."""
    c = world.config
    first = shard * c.shard_users
    users = np.arange(first, min(first + c.shard_users, c.users))
    return simulate(world, np.random.default_rng([c.seed, 1, shard]), users, request_base=int(world.requests_of[:first].sum()))


def simulate(world: World, rng: np.random.Generator, users: np.ndarray, *, request_base: int) -> Iterator[Turn]:
    """Yield the turns of consecutive `users`, with request ids from `request_base` in order of user, then time."""
    counts = world.requests_of[users]
    timeline = build_timeline(world, rng, counts)
    visitors = _arrive(world, rng, users)
    first = int(users[0])
    order = np.argsort(timeline.turn, kind="stable")
    edges = np.searchsorted(timeline.turn[order], np.arange(counts.max(initial=0) + 1))
    for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        at = order[start:end]
        yield _take_turn(world, rng, visitors, timeline, at, first=first, request_id=request_base + at)


def _arrive(world: World, rng: np.random.Generator, users: np.ndarray) -> Visitors:
    c, n = world.config, len(users)
    return Visitors(
        taste=rng.standard_normal((n, TASTE_DIM), dtype=np.float32),
        interests=_draw_interests(world, rng, world.segment[users]),
        day=np.zeros(n, dtype=np.int64),
        search_leaf=np.full(n, -1, dtype=np.int32),
        search_ts=np.zeros(n, dtype=np.int64),
        recent=np.full((n, RECENT_SEARCHES, RECENT_ITEMS), -1, dtype=np.int32),
        recent_ts=np.zeros((n, RECENT_SEARCHES), dtype=np.int64),
        shown=np.zeros((n, c.items), dtype=np.uint8) if c.fatigue_scale > 0 else None,
        leaf_shown=np.zeros((n, c.category_3), dtype=np.float32) if c.fatigue_scale > 0 else None,
    )


def _draw_interests(world: World, rng: np.random.Generator, segment: np.ndarray) -> np.ndarray:
    """Return INTERESTS leaves for each of `segment` (n,), by what the segment likes: (n, INTERESTS)."""
    return world.segment_leaves.draw(rng, np.repeat(segment[:, None], INTERESTS, axis=1))


def _drift(world: World, rng: np.random.Generator, v: Visitors, user: np.ndarray, segment: np.ndarray, day: np.ndarray) -> None:
    """Let tastes walk and interests change by the days since each visitor's last request."""
    passed = day - v.day[user]
    v.day[user] = day
    drift = world.config.drift
    if drift == 0:
        return
    keep = ((1 - drift) ** passed)[:, None]
    step = rng.standard_normal((len(user), TASTE_DIM), dtype=np.float32)
    v.taste[user] = keep * v.taste[user] + np.sqrt(1 - keep**2) * step
    changed = rng.random((len(user), INTERESTS)) > keep
    v.interests[user] = np.where(changed, _draw_interests(world, rng, segment), v.interests[user])


def _take_turn(
    world: World,
    rng: np.random.Generator,
    v: Visitors,
    timeline: Timeline,
    at: np.ndarray,
    *,
    first: int,
    request_id: np.ndarray,
) -> Turn:
    c = world.config
    user, ts, domain = timeline.user[at], timeline.ts[at], timeline.domain[at]
    user_id = first + user
    segment = world.segment[user_id]
    _drift(world, rng, v, user, segment, (ts - START_TS) // DAY)
    if v.leaf_shown is not None:
        v.leaf_shown[user[timeline.new_session[at]]] = 0
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

    # Rank, show, click.
    logit = behaviour.utility(world, page, row, item, coarse)
    start = np.cumsum(sizes) - sizes
    stale = logit + np.float32(c.ranker_noise) * rng.standard_normal(len(row), dtype=np.float32)
    if v.shown is not None and v.leaf_shown is not None:
        logit -= _fatigue(c, v, user, row, item, world.leaf.take(item), domain)
    by_slot = candidates.order_by(row, start, stale)
    slot = np.arange(len(row)) - np.repeat(start, sizes)
    shown = slot < np.repeat(np.minimum(timeline.num_exposed[at], sizes), sizes)
    position = np.full(len(row), -1, dtype=np.int16)
    position[by_slot[shown]] = slot[shown]
    exposed = np.flatnonzero(position >= 0)
    p_top = behaviour.sigmoid(logit)
    p_click = p_top.copy()
    e_row, e_item = row[exposed], item[exposed]
    p_click[exposed] = behaviour.sigmoid(
        logit[exposed] + behaviour.position_term(c, domain[e_row], world.trust[segment[e_row]], position[exposed])
    )
    p_buy = behaviour.buy_probability(world, page, row, item, logit)
    clicked = exposed[rng.random(len(exposed), dtype=np.float32) < p_click[exposed]]
    events = _follow(world, rng, row[clicked], item[clicked], position[clicked], p_buy[clicked], ts=ts, domain=domain)

    _remember(world, rng, v, user, ts, domain, leaf, row, item, logit, start, sizes)
    if v.shown is not None and v.leaf_shown is not None:
        _tire(v, user, domain, e_row, e_item, world.leaf[e_item], row[clicked], item[clicked])
    return Turn(
        request_id=request_id,
        user_id=user_id,
        ts=ts,
        domain=domain,
        query=query,
        scene=timeline.scene[at],
        shop=shop,
        sizes=sizes,
        item=item,
        rank=rank,
        position=position,
        p_click=p_click,
        p_purchase=p_click * p_buy,
        p_click_top=p_top,
        **events,
    )


def _fatigue(
    c: MarketplaceConfig,
    v: Visitors,
    user: np.ndarray,
    row: np.ndarray,
    item: np.ndarray,
    leaf: np.ndarray,
    domain: np.ndarray,
) -> np.ndarray:
    assert v.shown is not None and v.leaf_shown is not None
    visitor = user.take(row)
    times = behaviour.take2(v.shown, visitor, item)
    tired = np.minimum(times, MAX_SHOWN).astype(np.float32)
    tired += behaviour.take2(v.leaf_shown, visitor, leaf) * (domain.take(row) == REC)
    return np.float32(c.fatigue_scale) * tired


def _tire(v, user, domain, e_row, e_item, e_leaf, clicked_row, clicked_item) -> None:
    """Count the views of this turn: an item's restart at a click, a leaf's fade by half each turn of the feed."""
    times = v.shown[user[e_row], e_item]
    v.shown[user[e_row], e_item] = np.minimum(times, 254) + 1
    v.shown[user[clicked_row], clicked_item] = 0
    feed = domain == REC
    v.leaf_shown[user[feed]] *= np.float32(0.5)
    of_feed = feed[e_row]
    np.add.at(v.leaf_shown, (user[e_row[of_feed]], e_leaf[of_feed]), np.float32(0.2))


def _remember(world, rng, v, user, ts, domain, leaf, row, item, logit, start, sizes) -> None:
    """Keep what a search was about and the best of its candidates, shown or not, for retargeting."""
    here = np.flatnonzero(domain == SEARCH)
    if not len(here):
        return
    who = user[here]
    v.search_leaf[who], v.search_ts[who] = leaf[here], ts[here]
    of_search = np.flatnonzero((domain == SEARCH).take(row))
    noisy = logit[of_search] + rng.standard_normal(len(of_search), dtype=np.float32)
    short_row = np.repeat(np.arange(len(here)), sizes[here])
    short_start = np.cumsum(sizes[here]) - sizes[here]
    best = candidates.order_by(short_row, short_start, noisy)
    place = np.arange(len(best)) - np.repeat(short_start, sizes[here])
    kept = place < RECENT_ITEMS
    fresh = np.full((len(here), RECENT_ITEMS), -1, dtype=np.int32)
    fresh[short_row[kept], place[kept]] = item[of_search][best[kept]]
    v.recent[who, 1:], v.recent_ts[who, 1:] = v.recent[who, :-1], v.recent_ts[who, :-1]
    v.recent[who, 0], v.recent_ts[who, 0] = fresh, ts[here]


def _follow(
    world: World,
    rng: np.random.Generator,
    row: np.ndarray,
    item: np.ndarray,
    position: np.ndarray,
    p_buy: np.ndarray,
    *,
    ts: np.ndarray,
    domain: np.ndarray,
) -> dict[str, np.ndarray]:
    """Return the events of the clicked candidates: clicks, carts, purchases, here or later in another domain."""
    c, n = world.config, len(row)
    at = ts[row]
    click_ts = at + 2 + 3 * position.astype(np.int64) + rng.integers(0, 20, n)
    drawn = rng.random(n, dtype=np.float32)
    buys = np.flatnonzero(drawn < p_buy)
    carts = np.flatnonzero(drawn < p_buy + (1 - p_buy) * np.float32(behaviour.CART_SHARE))
    cart_ts = click_ts + 5 + rng.exponential(60, n).astype(np.int64)
    here_ts = cart_ts + 10 + np.minimum(rng.exponential(900, n), 6 * 3_600).astype(np.int64)
    later_ts = cart_ts + 600 + np.minimum(rng.exponential(8 * 3_600, n), ELSEWHERE_SECONDS - 7_200).astype(np.int64)
    elsewhere = (rng.random(n) < c.finish_elsewhere)[buys]
    # A search is finished in the feed or on a shop page, the others in each other.
    other = np.where(domain[row] == SEARCH, np.where(rng.random(n) < 0.5, REC, SHOP), REC + SHOP - domain[row])
    kinds = np.repeat([CLICK, CART, PURCHASE], [n, len(carts), len(buys)])
    source = np.concatenate([np.arange(n), carts, buys])
    here = np.concatenate([np.ones(n + len(carts), dtype=bool), ~elsewhere])
    when = np.concatenate([click_ts, cart_ts[carts], np.where(elsewhere, later_ts[buys], here_ts[buys])])
    in_time = when < c.end_ts
    source, here = source[in_time], here[in_time]
    return {
        "event_request": row[source],
        "event_item": item[source],
        "event_ts": when[in_time],
        "event_domain": np.where(here, domain[row[source]], other[source]),
        "event_kind": kinds[in_time],
        "event_here": here,
    }
