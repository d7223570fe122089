"""The shop at the moment a ranker takes it over: its visitors' hidden state and everything they did until then.

The hidden state is in no log, so a shard is simulated again from its beginning; that gives the logs' own events once more.
"""

from dataclasses import dataclass

import numpy as np

from data_gen.marketplace.shard import scenes, shard_stream, shard_users, take_turn
from data_gen.marketplace.visitors import Fatigue, Visitors, arrive
from data_gen.marketplace.world import World


@dataclass(frozen=True, kw_only=True, slots=True)
class EventLog:
    """Events of some visitors, by their place `user`; `kind` and `domain` are codes. All shapes (E,), in no order."""

    user: np.ndarray
    ts: np.ndarray
    item: np.ndarray
    kind: np.ndarray
    domain: np.ndarray

    def plus(self, *others: "EventLog") -> "EventLog":
        """Return these events and others."""
        names = ("user", "ts", "item", "kind", "domain")
        return EventLog(**{n: np.concatenate([getattr(log, n) for log in (self, *others)]) for n in names})


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """A shard's visitors as they stand at a time: state, fatigue as its non-zero counts, and the events of earlier requests."""

    users: np.ndarray
    visitors: Visitors
    leaf_shown: np.ndarray | None
    shown: tuple[np.ndarray, np.ndarray, np.ndarray]  # visitor, item, count
    events: EventLog


def standing(world: World, shard: int, until: int) -> Standing:
    """Return the visitors of a shard after their last request before `until` (a unix time)."""
    users, rng = shard_users(world, shard), shard_stream(world, shard)
    n = len(users)
    # Requests after `until` are simulated too, as all visitors share one stream; what they leave is not kept.
    kept = arrive(world, np.random.default_rng(0), users)
    fatigue = Fatigue.none_yet(world.config, n)
    waiting = np.ones(n, dtype=bool)
    logs: list[EventLog] = []
    names = ("taste", "interests", "day", "search_leaf", "search_ts", "recent", "recent_ts")

    def keep(who: np.ndarray, state: Visitors, tired: Fatigue | None) -> None:
        for name in names:
            getattr(kept, name)[who] = getattr(state, name)[who]
        if fatigue is not None and tired is not None:
            fatigue.shown[who], fatigue.leaf_shown[who] = tired.shown[who], tired.leaf_shown[who]
        waiting[who] = False

    last = None
    for scene in scenes(world, rng, users):
        user, ts = scene.timeline.user[scene.at], scene.timeline.ts[scene.at]
        now = user[(ts >= until) & waiting[user]]
        keep(now, scene.visitors, scene.fatigue)
        before = waiting[user]
        turn = take_turn(world, rng, scene, request_id=scene.at)
        of = before[turn.event_request]
        logs.append(
            EventLog(
                user=user[turn.event_request][of],
                ts=turn.event_ts[of],
                item=turn.event_item[of],
                kind=turn.event_kind[of],
                domain=turn.event_domain[of],
            )
        )
        last = scene
    if last is not None:
        keep(np.flatnonzero(waiting), last.visitors, last.fatigue)
    nothing = np.empty(0, dtype=np.int64)
    empty = EventLog(user=nothing, ts=nothing, item=nothing, kind=nothing, domain=nothing)
    who, item = np.nonzero(fatigue.shown) if fatigue is not None else (nothing, nothing)
    return Standing(
        users=users,
        visitors=kept,
        leaf_shown=None if fatigue is None else fatigue.leaf_shown,
        shown=(who, item, nothing if fatigue is None else fatigue.shown[who, item]),
        events=empty.plus(*logs),
    )


def repeated(standing: Standing, lives: int) -> tuple[np.ndarray, Visitors, EventLog]:
    """Return ids, state and events of the visitors standing `lives` times side by side; life by life."""
    state = {
        name: np.concatenate([getattr(standing.visitors, name)] * lives)
        for name in ("taste", "interests", "day", "search_leaf", "search_ts", "recent", "recent_ts")
    }
    n, log = len(standing.users), standing.events
    shifted = [
        EventLog(user=log.user + life * n, ts=log.ts, item=log.item, kind=log.kind, domain=log.domain) for life in range(lives)
    ]
    return np.concatenate([standing.users] * lives), Visitors(**state), shifted[0].plus(*shifted[1:])


def tired(world: World, standing: Standing, lives: int) -> Fatigue | None:
    """Return the fatigue of the visitors standing `lives` times side by side, of its own arrays."""
    n = len(standing.users)
    fatigue = Fatigue.none_yet(world.config, n * lives)
    if fatigue is not None and standing.leaf_shown is not None:
        who, item, count = standing.shown
        for life in range(lives):
            fatigue.shown[who + life * n, item] = count
        fatigue.leaf_shown[:] = np.concatenate([standing.leaf_shown] * lives)
    return fatigue
