"""Rankers in charge of the shop's pages: the same visitors, requests, lists and random numbers in every ranker's world.

What a visitor asks for and the lists recalled for it are made once and are common to all worlds. In each world the ranker of
that world orders the lists of the domains it is in charge of (the shop's own ranker the others), the best are shown, and the
shop's truth decides. Every random number belongs to a candidate of a request, so two worlds differ only where their pages do.

Fed back in each world: what was shown without a click tires its visitor (items, and leaves of the feed), a click refreshes;
clicks, carts and purchases become the history that the ranker sees from the moment they happen. Common to all worlds, since
in this shop they do not depend on what is shown: sessions, tastes, queries, the category carried from search to feed.
Not fed back: retargeting remembers a search's best candidates by their worth before fatigue, else lists would differ.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from data_gen.marketplace import behaviour
from data_gen.marketplace.config import DAY, DOMAINS, REC, SEARCH, SHOP
from data_gen.marketplace.events import CLICK, PURCHASE, Chances, follow
from data_gen.marketplace.lists import Lists, make_lists
from data_gen.marketplace.shard import click_probability, stale_score, turns_of
from data_gen.marketplace.takeover import EventLog, Standing, repeated, tired
from data_gen.marketplace.timeline import build_timeline
from data_gen.marketplace.visitors import remember
from data_gen.marketplace.world import World

SEGMENTS = ("in charge", "head queries", "torso queries", "tail queries", "new items", "other pages", "all pages")
"""Parts of the outcome; `new items` counts what falls on items that were not there before the takeover, in charge."""
METRICS = ("clicks", "purchases", "revenue")
HEAD, TORSO, TAIL = range(3)
STREAM = 3
"""Of the seed's streams: 0 is the world's, 1 the logs', 2 the pilot's."""
Own = Literal["shop", "random", "oracle"]
OWN: tuple[Own, ...] = ("shop", "random", "oracle")
"""Rankers that the shop has itself: its logging policy, an order by chance, and the true click logit at that moment."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What a ranker is asked: the lists (R,) of one turn as the shop's logs would hold them, and all events so far.

    `query`, `scene` and `shop` are -1 where a log has none; candidates (N,) come in order of request and pre-rank. An event is
    known at a request if it is strictly earlier.
    """

    user: np.ndarray
    user_id: np.ndarray
    ts: np.ndarray
    domain: np.ndarray
    query: np.ndarray
    scene: np.ndarray
    shop: np.ndarray
    sizes: np.ndarray
    item: np.ndarray
    rank: np.ndarray
    price: np.ndarray
    events: EventLog


Policy = Callable[[Asked], np.ndarray] | Own
"""A ranker: scores (N,) of the candidates asked about, more is better; or one of the shop's own by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """How long the rankers are in charge, from when, where, and which queries are frequent."""

    start_ts: int
    days: int
    in_charge: tuple[int, ...]
    query_class: np.ndarray  # (Q,) HEAD, TORSO or TAIL


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What happened, by visitor and life: `user_id` and `life` (V,), `requests` (V, S), `sums` (worlds, V, S, METRICS).

    Requests are common to all worlds. A purchase counts for the request whose click led to it, wherever it finishes.
    """

    user_id: np.ndarray
    life: np.ndarray
    requests: np.ndarray
    sums: np.ndarray


def contest(
    world: World,
    standing: Standing,
    policies: Sequence[Policy],
    terms: Terms,
    *,
    counts: np.ndarray,
    first_life: int,
    seed: Sequence[int],
) -> Outcome:
    """Let each policy have a world of its own for some lives of a shard's visitors.

    `counts` (lives, U) are the requests each visitor makes in each life; `seed` decides everything that happens.
    """
    lives, n = counts.shape
    users, visitors, past = repeated(standing, lives)
    common, chance = (np.random.default_rng([*seed, k]) for k in (0, 1))
    timeline = build_timeline(world, common, counts.ravel(), start_ts=terms.start_ts, days=terms.days)
    worlds = [_World(policy, tired(world, standing, lives), past, world, terms, len(users)) for policy in policies]
    requests = np.zeros((len(users), len(SEGMENTS)))
    for at in turns_of(timeline):
        lists = make_lists(world, common, visitors, timeline, at, users)
        stale = stale_score(world, common, lists)
        remember(
            common, visitors, lists.user, lists.ts, lists.domain, lists.leaf, lists.row, lists.item, lists.logit,
            lists.start, lists.sizes,
        )  # fmt: skip
        total = len(lists.row)
        by_chance, clicks = (chance.random(total, dtype=np.float32) for _ in range(2))
        chances = Chances.draw(chance, total)
        segments = _segments(lists, terms)
        requests[lists.user] += segments
        fresh = lists.user[timeline.new_session[at]]
        for one in worlds:
            one.turn(lists, {"shop": stale, "random": by_chance}, clicks, chances, segments, fresh)
    life = first_life + np.repeat(np.arange(lives), n)
    return Outcome(user_id=users, life=life, requests=requests, sums=np.stack([one.sums for one in worlds]))


def _segments(lists: Lists, terms: Terms) -> np.ndarray:
    """Say which requests count in which of SEGMENTS (R, S)."""
    ours = np.isin(lists.domain, terms.in_charge)
    searches = np.where(ours & (lists.domain == SEARCH), terms.query_class[lists.query], -1)
    everywhere = np.ones(len(ours), dtype=bool)
    of_query = [searches == c for c in (HEAD, TORSO, TAIL)]
    return np.stack([ours, *of_query, ours, ~ours, everywhere], axis=1)


class _World:
    """One ranker's world: its visitors' fatigue and events, and what was sold."""

    def __init__(self, policy: Policy, fatigue, past: EventLog, world: World, terms: Terms, visitors: int):
        self.policy, self.fatigue, self.events, self.world, self.terms = policy, fatigue, past, world, terms
        self.sums = np.zeros((visitors, len(SEGMENTS), len(METRICS)))

    def turn(
        self,
        lists: Lists,
        scores: dict[str, np.ndarray],
        clicks: np.ndarray,
        chances: Chances,
        segments: np.ndarray,
        fresh: np.ndarray,
    ) -> None:
        c, world, row, item = self.world.config, self.world, lists.row, lists.item
        logit = lists.logit
        if self.fatigue is not None:
            self.fatigue.leaf_shown[fresh] = 0
            logit = logit - self.fatigue.logit(c, lists.user, row, item, world.leaf.take(item), lists.domain)
        position = lists.top(self._score(lists, {**scores, "oracle": logit}, segments[:, 0]))
        exposed = np.flatnonzero(position >= 0)
        p_click = click_probability(world, lists, logit, exposed, position[exposed])
        clicked = exposed[clicks[exposed] < p_click]
        p_buy = behaviour.buy_probability(world, lists.page, row[clicked], item[clicked], logit[clicked])
        # Nobody stops watching at the end of the test: what a page leads to counts whole.
        end = self.terms.start_ts + (self.terms.days + 30) * DAY
        events = follow(c, chances.take(clicked), lists, clicked, position[clicked], p_buy, end_ts=end)
        self._count(lists, events, segments)
        self.events = self.events.plus(
            EventLog(
                user=lists.user[events["event_request"]],
                ts=events["event_ts"],
                item=events["event_item"],
                kind=events["event_kind"],
                domain=events["event_domain"],
            )
        )
        if self.fatigue is not None:
            e_item = item[exposed]
            leaf = world.leaf[e_item]
            self.fatigue.see(lists.user, lists.domain, row[exposed], e_item, leaf, row[clicked], item[clicked])

    def _score(self, lists: Lists, scores: dict[str, np.ndarray], ours: np.ndarray) -> np.ndarray:
        if isinstance(self.policy, str):
            return np.where(ours.take(lists.row), scores[self.policy], scores["shop"])
        if not ours.any():
            return scores["shop"]
        of_ours = ours.take(lists.row)
        score = scores["shop"].copy()
        score[of_ours] = self.policy(asked(self.world, lists, ours, of_ours, self.events))
        return score

    def _count(self, lists: Lists, events: dict[str, np.ndarray], segments: np.ndarray) -> None:
        request, item, kind = (events[f"event_{name}"] for name in ("request", "item", "kind"))
        is_new = self.world.created_ts[item] >= self.terms.start_ts
        worth = [kind == CLICK, kind == PURCHASE, (kind == PURCHASE) * self.world.price[item]]
        new = SEGMENTS.index("new items")
        for m, amount in enumerate(worth):
            total, of_new = (np.bincount(request, weights=amount * some, minlength=len(lists.user)) for some in (1.0, is_new))
            here = total[:, None] * segments
            here[:, new] = of_new * segments[:, new]
            self.sums[lists.user, :, m] += here


def asked(world: World, lists: Lists, ours: np.ndarray, of_ours: np.ndarray, events: EventLog) -> Asked:
    """Return the requests `ours` (R,) and their candidates `of_ours` (N,) as a ranker sees them."""
    domain, item = lists.domain[ours], lists.item[of_ours]
    return Asked(
        user=lists.user[ours],
        user_id=lists.user_id[ours],
        ts=lists.ts[ours],
        domain=domain,
        query=np.where(domain == SEARCH, lists.query[ours], -1),
        scene=np.where(domain == REC, lists.scene[ours], -1),
        shop=np.where(domain == SHOP, lists.shop[ours], -1),
        sizes=lists.sizes[ours],
        item=item,
        rank=lists.rank[of_ours],
        price=world.price.take(item),
        events=events,
    )


assert len(DOMAINS) == 3, "a page belongs to search, feed or shop"
