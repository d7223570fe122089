"""What changes in visitors from one request to the next: tastes that walk, searches remembered, things seen too often."""

from dataclasses import dataclass

import numpy as np

from data_gen.marketplace import behaviour, candidates
from data_gen.marketplace.config import DAY, REC, SEARCH, MarketplaceConfig
from data_gen.marketplace.world import TASTE_DIM, World

RECENT_SEARCHES, RECENT_ITEMS = 2, 24
"""Retargeting remembers this many searches of a visitor and this many items of each."""
RECENT_SECONDS = 2 * DAY
INTERESTS = 4
MAX_SHOWN = 4


@dataclass(kw_only=True, slots=True)
class Visitors:
    """What a visitor carries from turn to turn whatever the pages showed; one row a visitor (U,)."""

    taste: np.ndarray  # (U, k) the visitor's own part
    interests: np.ndarray  # (U, INTERESTS) leaves
    day: np.ndarray
    search_leaf: np.ndarray
    search_ts: np.ndarray
    recent: np.ndarray  # (U, RECENT_SEARCHES, RECENT_ITEMS) items, -1 none
    recent_ts: np.ndarray  # (U, RECENT_SEARCHES)


@dataclass(kw_only=True, slots=True)
class Fatigue:
    """What the pages did to each visitor (U,): views since the last click, of every item (I) and of the feed's leaves (L)."""

    shown: np.ndarray  # (U, I) times shown without a click since the last click
    leaf_shown: np.ndarray  # (U, L) share of the session's feed in each leaf, fading

    @classmethod
    def none_yet(cls, config: MarketplaceConfig, visitors: int) -> "Fatigue | None":
        """Return fresh visitors' fatigue, or None in a shop without any."""
        if config.fatigue_scale == 0:
            return None
        return cls(
            shown=np.zeros((visitors, config.items), dtype=np.uint8),
            leaf_shown=np.zeros((visitors, config.category_3), dtype=np.float32),
        )

    def logit(
        self, c: MarketplaceConfig, user: np.ndarray, row: np.ndarray, item: np.ndarray, leaf: np.ndarray, domain: np.ndarray
    ) -> np.ndarray:
        """Return what each candidate's logit loses; `user` and `domain` (R,), the others one entry a candidate."""
        visitor = user.take(row)
        times = behaviour.take2(self.shown, visitor, item)
        tired = np.minimum(times, MAX_SHOWN).astype(np.float32)
        tired += behaviour.take2(self.leaf_shown, visitor, leaf) * (domain.take(row) == REC)
        return np.float32(c.fatigue_scale) * tired

    def see(
        self,
        user: np.ndarray,
        domain: np.ndarray,
        e_row: np.ndarray,
        e_item: np.ndarray,
        e_leaf: np.ndarray,
        clicked_row: np.ndarray,
        clicked_item: np.ndarray,
    ) -> None:
        """Count the views of this turn: an item's restart at a click, a leaf's fade by half each turn of the feed."""
        times = self.shown[user[e_row], e_item]
        self.shown[user[e_row], e_item] = np.minimum(times, 254) + 1
        self.shown[user[clicked_row], clicked_item] = 0
        feed = domain == REC
        self.leaf_shown[user[feed]] *= np.float32(0.5)
        of_feed = feed[e_row]
        np.add.at(self.leaf_shown, (user[e_row[of_feed]], e_leaf[of_feed]), np.float32(0.2))


def arrive(world: World, rng: np.random.Generator, users: np.ndarray) -> Visitors:
    """Return visitors who have done nothing yet."""
    n = len(users)
    return Visitors(
        taste=rng.standard_normal((n, TASTE_DIM), dtype=np.float32),
        interests=_draw_interests(world, rng, world.segment[users]),
        day=np.zeros(n, dtype=np.int64),
        search_leaf=np.full(n, -1, dtype=np.int32),
        search_ts=np.zeros(n, dtype=np.int64),
        recent=np.full((n, RECENT_SEARCHES, RECENT_ITEMS), -1, dtype=np.int32),
        recent_ts=np.zeros((n, RECENT_SEARCHES), dtype=np.int64),
    )


def _draw_interests(world: World, rng: np.random.Generator, segment: np.ndarray) -> np.ndarray:
    """Return INTERESTS leaves for each of `segment` (n,), by what the segment likes: (n, INTERESTS)."""
    return world.segment_leaves.draw(rng, np.repeat(segment[:, None], INTERESTS, axis=1))


def drift(world: World, rng: np.random.Generator, v: Visitors, user: np.ndarray, segment: np.ndarray, day: np.ndarray) -> None:
    """Let tastes walk and interests change by the days since each visitor's last request."""
    passed = day - v.day[user]
    v.day[user] = day
    rate = world.config.drift
    if rate == 0:
        return
    keep = ((1 - rate) ** passed)[:, None]
    step = rng.standard_normal((len(user), TASTE_DIM), dtype=np.float32)
    v.taste[user] = keep * v.taste[user] + np.sqrt(1 - keep**2) * step
    changed = rng.random((len(user), INTERESTS)) > keep
    v.interests[user] = np.where(changed, _draw_interests(world, rng, segment), v.interests[user])


def remember(
    rng: np.random.Generator,
    v: Visitors,
    user: np.ndarray,
    ts: np.ndarray,
    domain: np.ndarray,
    leaf: np.ndarray,
    row: np.ndarray,
    item: np.ndarray,
    logit: np.ndarray,
    start: np.ndarray,
    sizes: np.ndarray,
) -> None:
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
