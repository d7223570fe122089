"""Recall and pre-ranking: from the whole catalogue to the 50 to 200 candidates of each request.

Everything is ragged and flat: `row` says which request an entry belongs to. Search recalls around the query's category, the
feed by the visitor's interests, by popularity and from what a recent search considered (retargeting), a shop page its shop.
"""

import numpy as np

from data_gen.marketplace.config import REC, SEARCH, SHOP
from data_gen.marketplace.draws import choose
from data_gen.marketplace.world import World

POOL_FACTOR, POOL_EXTRA = 1.5, 16
"""Draws for each candidate wanted: draws repeat each other."""
SEARCH_LEVELS = np.array([0.72, 0.18, 0.07, 0.03])
"""Shares of a search pool from the query's leaf, its category_2, its category_1, everywhere."""
FEED_INTERESTS = 0.6
"""Share of a feed pool from the visitor's interests; the rest is popular items anywhere."""
PRERANK_NOISE = 1.0
PRERANK_POPULARITY = 0.15
MAX_TOP_UPS = 12


def draw_near(world: World, rng: np.random.Generator, leaf: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Draw items by popularity near a leaf: level 0 in it, 1 and 2 in its categories 2 and 1, 3 anywhere."""
    anywhere = 3 * len(world.parents)
    return world.near_leaf.draw(rng, np.minimum(level * len(world.parents) + leaf, anywhere))


def recall(
    world: World,
    rng: np.random.Generator,
    *,
    domain: np.ndarray,
    leaf: np.ndarray,
    shop: np.ndarray,
    interests: np.ndarray,
    recent: np.ndarray,
    draws: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw `draws` (R,) items a request, with repeats; return their rows and items, flat, rows not in order.

    `leaf` is the query's in search; `interests` (R, k) leaves a visitor likes; `recent` (R, k) items lately considered for the
    visitor's searches, -1 where there are fewer.
    """
    rows, items = [], []
    for d in (SEARCH, REC, SHOP):
        here = np.flatnonzero(domain == d)
        row = np.repeat(here, draws[here])
        if d == SEARCH:
            item = draw_near(world, rng, leaf[row], choose(rng, SEARCH_LEVELS, len(row)))
        elif d == SHOP:
            item = world.in_shop.draw(rng, shop[row])
        else:
            wanted = interests[row, rng.integers(interests.shape[1], size=len(row))]
            everywhere = np.where(rng.random(len(row), dtype=np.float32) < FEED_INTERESTS, 0, 3)
            item = draw_near(world, rng, wanted, everywhere)
            again = recent[row, rng.integers(recent.shape[1], size=len(row))]
            retarget = (rng.random(len(row), dtype=np.float32) < world.config.retargeting) & (again >= 0)
            item = np.where(retarget, again, item)
        rows.append(row)
        items.append(item)
    return np.concatenate(rows), np.concatenate(items)


def distinct(world: World, row: np.ndarray, item: np.ndarray, ts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs in order of row and item, without repeats and items not yet created at the row's time."""
    bits = int(world.config.items).bit_length()
    key = np.sort((row.astype(np.int64) << bits) | item)
    keep = np.empty(len(key), dtype=bool)
    keep[:1] = True
    np.not_equal(key[1:], key[:-1], out=keep[1:])
    row, item = key >> bits, (key & ((1 << bits) - 1)).astype(np.int32)
    keep &= world.created_ts.take(item) < ts.take(row)
    return row[keep], item[keep]


def top_up(
    world: World,
    rng: np.random.Generator,
    row: np.ndarray,
    item: np.ndarray,
    *,
    ts: np.ndarray,
    domain: np.ndarray,
    leaf: np.ndarray,
    shop: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw more for requests with fewer than `candidates_min` distinct items: wider around the leaf, or the same shop."""
    wanted = world.config.candidates_min
    for attempt in range(MAX_TOP_UPS):
        short = np.flatnonzero(np.bincount(row, minlength=len(ts)) < wanted)
        if not len(short):
            break
        more = np.repeat(short, 2 * wanted)
        level = np.full(len(more), min(attempt + 1, 3))
        anchor = np.where(domain[more] == SEARCH, leaf[more], 0)
        level[domain[more] != SEARCH] = 3
        found = draw_near(world, rng, anchor, level)
        at_shop = domain[more] == SHOP
        found[at_shop] = world.in_shop.draw(rng, shop[more][at_shop])
        row, item = distinct(world, np.concatenate([row, more]), np.concatenate([item, found]), ts)
    return row, item


def order_by(row: np.ndarray, start: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Return the order of entries by row and falling score; `row` is sorted, `start` (R,) the first entry of each row.

    One sort of packed integers (row, score, place in row), so that ties fall the same way on every machine.
    """
    bits = (np.float32(0) - score).astype(np.float32).view(np.int32).astype(np.int64)  # from 0: no -0.0
    ordered = np.where(bits < 0, ~bits & 0xFFFFFFFF, bits | 0x80000000)
    place = np.arange(len(row)) - start.take(row)
    key = (row.astype(np.int64) << 43) | (ordered << 11) | place
    key.sort()
    return start.take(key >> 43) + (key & 0x7FF)


def prerank_score(world: World, rng: np.random.Generator, coarse: np.ndarray, item: np.ndarray) -> np.ndarray:
    """Return the pre-ranker's score: a coarse part of the true utility, popularity, and noise."""
    noise = rng.standard_normal(len(item), dtype=np.float32)
    return coarse + world.log_popularity.take(item) * np.float32(PRERANK_POPULARITY) + noise * np.float32(PRERANK_NOISE)
