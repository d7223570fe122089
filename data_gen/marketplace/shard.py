"""One shard: a block of visitors simulated from their first request to their last, written as it goes.

Turn by turn: the first request of everyone together, then the second, and so on, so that a later request can depend on what
was seen before it while all arithmetic stays in arrays.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data_gen.marketplace import behaviour
from data_gen.marketplace.events import Chances, follow
from data_gen.marketplace.lists import Lists, make_lists
from data_gen.marketplace.timeline import Timeline, build_timeline
from data_gen.marketplace.visitors import Fatigue, Visitors, arrive, remember
from data_gen.marketplace.world import World


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """What a turn begins with: the requests `at` of the timeline, and the state of all visitors (`users`, by id)."""

    timeline: Timeline
    at: np.ndarray
    visitors: Visitors
    fatigue: Fatigue | None
    users: np.ndarray


def shard_users(world: World, shard: int) -> np.ndarray:
    """Return the ids of a shard's visitors."""
    first = shard * world.config.shard_users
    return np.arange(first, min(first + world.config.shard_users, world.config.users))


def shard_stream(world: World, shard: int) -> np.random.Generator:
    """Return the random numbers of a shard's logs, from their beginning."""
    return np.random.default_rng([world.config.seed, 1, shard])


def simulate_shard(world: World, shard: int) -> Iterator[Turn]:
    """Yield the turns of a shard; deterministic by (seed, shard)."""
    users = shard_users(world, shard)
    return simulate(world, shard_stream(world, shard), users, request_base=int(world.requests_of[: users[0]].sum()))


def simulate(world: World, rng: np.random.Generator, users: np.ndarray, *, request_base: int) -> Iterator[Turn]:
    """Yield the turns of `users`, with request ids from `request_base` in order of user, then time."""
    for scene in scenes(world, rng, users):
        yield take_turn(world, rng, scene, request_id=request_base + scene.at)


def scenes(world: World, rng: np.random.Generator, users: np.ndarray) -> Iterator[Scene]:
    """Yield what each turn of `users` begins with; the caller takes the turn, which changes the visitors, before the next."""
    counts = world.requests_of[users]
    timeline = build_timeline(world, rng, counts)
    visitors, fatigue = arrive(world, rng, users), Fatigue.none_yet(world.config, len(users))
    for at in turns_of(timeline):
        yield Scene(timeline=timeline, at=at, visitors=visitors, fatigue=fatigue, users=users)


def turns_of(timeline: Timeline) -> Iterator[np.ndarray]:
    """Yield the places of everyone's first request, then of the second, and so on."""
    order = np.argsort(timeline.turn, kind="stable")
    edges = np.searchsorted(timeline.turn[order], np.arange(timeline.turn.max(initial=-1) + 2))
    for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        yield order[start:end]


def take_turn(world: World, rng: np.random.Generator, scene: Scene, *, request_id: np.ndarray) -> Turn:
    """Let the shop's own ranker show the lists of one turn, and the visitors decide."""
    c, v, fatigue = world.config, scene.visitors, scene.fatigue
    if fatigue is not None:
        fatigue.leaf_shown[scene.timeline.user[scene.at[scene.timeline.new_session[scene.at]]]] = 0
    lists = make_lists(world, rng, v, scene.timeline, scene.at, scene.users)
    row, item, user = lists.row, lists.item, lists.user
    score = stale_score(world, rng, lists)
    logit = lists.logit
    if fatigue is not None:
        logit = logit - fatigue.logit(c, user, row, item, world.leaf.take(item), lists.domain)
    position = lists.top(score)
    exposed = np.flatnonzero(position >= 0)
    p_top = behaviour.sigmoid(logit)
    p_click = p_top.copy()
    p_click[exposed] = click_probability(world, lists, logit, exposed, position[exposed])
    p_buy = behaviour.buy_probability(world, lists.page, row, item, logit)
    clicked = exposed[rng.random(len(exposed), dtype=np.float32) < p_click[exposed]]
    chances = Chances.draw(rng, len(clicked))
    events = follow(c, chances, lists, clicked, position[clicked], p_buy[clicked], end_ts=c.end_ts)

    remember(rng, v, user, lists.ts, lists.domain, lists.leaf, row, item, logit, lists.start, lists.sizes)
    if fatigue is not None:
        e_item = item[exposed]
        fatigue.see(user, lists.domain, row[exposed], e_item, world.leaf[e_item], row[clicked], item[clicked])
    return Turn(
        request_id=request_id,
        user_id=lists.user_id,
        ts=lists.ts,
        domain=lists.domain,
        query=lists.query,
        scene=lists.scene,
        shop=lists.shop,
        sizes=lists.sizes,
        item=item,
        rank=lists.rank,
        position=position,
        p_click=p_click,
        p_purchase=p_click * p_buy,
        p_click_top=p_top,
        **events,
    )


def stale_score(world: World, rng: np.random.Generator, lists: Lists) -> np.ndarray:
    """Return the score of the shop's own ranker, last week's: the truth without fatigue, and noise."""
    return lists.logit + np.float32(world.config.ranker_noise) * rng.standard_normal(len(lists.row), dtype=np.float32)


def click_probability(world: World, lists: Lists, logit: np.ndarray, exposed: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Return P(click) of the candidates `exposed` (e,) in slots `position` (e,); `logit` is every candidate's."""
    row = lists.row[exposed]
    trust = world.trust[lists.page.segment[row]]
    term = behaviour.position_term(world.config, lists.domain[row], trust, position)
    return behaviour.sigmoid(logit[exposed] + term)
