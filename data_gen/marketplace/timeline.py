"""When the visitors of a shard come, and to which domain: sessions of several requests over the days of the logs."""

from dataclasses import dataclass

import numpy as np

from data_gen.marketplace.config import DAY, DOMAINS, SCENES, START_TS
from data_gen.marketplace.draws import choose, zipf
from data_gen.marketplace.world import World

LAST_REQUEST = 900
"""No request in the last seconds of the logs, so that no click is cut off at their end."""
_HOURS = np.array([2, 1, 1, 1, 1, 2, 3, 5, 6, 6, 7, 8, 9, 8, 7, 7, 7, 8, 10, 13, 15, 14, 9, 5], dtype=np.float64)
_MAX_GAP = 600


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeline:
    """Requests of a shard in order of user, then time; `user` counts from the first of the shard. All shapes (N,)."""

    user: np.ndarray
    turn: np.ndarray  # 0 for a user's first request
    ts: np.ndarray
    domain: np.ndarray
    scene: np.ndarray  # drawn for every request, meant in rec only
    new_session: np.ndarray
    num_candidates: np.ndarray
    num_exposed: np.ndarray


def build_timeline(
    world: World, rng: np.random.Generator, counts: np.ndarray, *, start_ts: int = START_TS, days: int | None = None
) -> Timeline:
    """Draw the timelines of users making `counts` (users,) requests each; a user's times are strictly increasing.

    They lie within `days` from `start_ts`, by default the days of the logs.
    """
    c = world.config
    days = days or c.days
    total = int(counts.sum())
    user = np.repeat(np.arange(len(counts)), counts)
    first = np.cumsum(counts) - counts
    turn = np.arange(total) - first[user]

    new_session = (rng.random(total) < 1 / c.session_length) | (turn == 0)
    session = np.cumsum(new_session) - 1
    sessions = int(new_session.sum())
    opening = rng.integers(0, days, sessions) * DAY
    opening += choose(rng, _HOURS, sessions).astype(np.int64) * 3_600 + rng.integers(0, 3_600, sessions)
    gap = np.minimum(15 + rng.exponential(120, total), _MAX_GAP).astype(np.int64)
    gap[new_session] = 0
    elapsed = np.cumsum(gap)
    since = elapsed - elapsed[new_session][session] if total else elapsed
    seconds = np.sort((user << 40) + opening[session] + since) - (user << 40)

    # Sessions of one user may overlap or run past the end: push equal times apart, then back inside.
    pushed = np.maximum.accumulate((user << 40) + seconds - turn) - (user << 40) + turn
    left = counts[user] - 1 - turn
    ts = start_ts + np.minimum(pushed, days * DAY - LAST_REQUEST - left)
    started = np.diff(ts, prepend=0) > 2 * _MAX_GAP
    started[turn == 0] = True

    spread = c.candidates_max - c.candidates_min
    return Timeline(
        user=user,
        turn=turn,
        ts=ts,
        domain=np.searchsorted([c.search_share, c.search_share + c.rec_share], rng.random(total), side="right"),
        scene=choose(rng, zipf(SCENES, 1.0), total),
        new_session=started,
        num_candidates=c.candidates_min + np.round(spread * rng.beta(1.5, 3.0, total)).astype(np.int64),
        num_exposed=rng.integers(c.exposed_min, c.exposed_max + 1, total),
    )


assert len(DOMAINS) == 3, "the shares in build_timeline name three domains"
