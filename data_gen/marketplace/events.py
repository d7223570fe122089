"""What a click leads to: carts and purchases, on the page or later in another domain."""

from dataclasses import dataclass, fields

import numpy as np

from data_gen.marketplace import behaviour
from data_gen.marketplace.config import DAY, REC, SEARCH, SHOP, MarketplaceConfig
from data_gen.marketplace.lists import Lists

ELSEWHERE_SECONDS = 2 * DAY
CLICK, CART, PURCHASE = range(3)


@dataclass(frozen=True, kw_only=True, slots=True)
class Chances:
    """The random numbers that decide what follows a click, one of each for every click or candidate that may be one."""

    pause: np.ndarray
    buys: np.ndarray
    to_cart: np.ndarray
    to_buy: np.ndarray
    to_buy_later: np.ndarray
    elsewhere: np.ndarray
    where: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator, n: int) -> "Chances":
        """Draw them for `n` clicks."""
        return cls(
            pause=rng.integers(0, 20, n),
            buys=rng.random(n, dtype=np.float32),
            to_cart=rng.exponential(60, n),
            to_buy=rng.exponential(900, n),
            to_buy_later=rng.exponential(8 * 3_600, n),
            elsewhere=rng.random(n),
            where=rng.random(n),
        )

    def take(self, places: np.ndarray) -> "Chances":
        """Return those at some places."""
        return Chances(**{f.name: getattr(self, f.name)[places] for f in fields(self)})


def follow(
    c: MarketplaceConfig,
    chances: Chances,
    lists: Lists,
    clicked: np.ndarray,
    position: np.ndarray,
    p_buy: np.ndarray,
    *,
    end_ts: int,
) -> dict[str, np.ndarray]:
    """Return the events before `end_ts` of the candidates `clicked` (n,): clicks, carts, purchases, here or later elsewhere.

    `chances`, `position` and `p_buy` are theirs (n,); `event_request` counts the turn's requests.
    """
    row, n = lists.row[clicked], len(clicked)
    domain = lists.domain
    click_ts = lists.ts[row] + 2 + 3 * position.astype(np.int64) + chances.pause
    buys = np.flatnonzero(chances.buys < p_buy)
    carts = np.flatnonzero(chances.buys < p_buy + (1 - p_buy) * np.float32(behaviour.CART_SHARE))
    cart_ts = click_ts + 5 + chances.to_cart.astype(np.int64)
    here_ts = cart_ts + 10 + np.minimum(chances.to_buy, 6 * 3_600).astype(np.int64)
    later_ts = cart_ts + 600 + np.minimum(chances.to_buy_later, ELSEWHERE_SECONDS - 7_200).astype(np.int64)
    elsewhere = (chances.elsewhere < c.finish_elsewhere)[buys]
    # A search is finished in the feed or on a shop page, the others in each other.
    other = np.where(domain[row] == SEARCH, np.where(chances.where < 0.5, REC, SHOP), REC + SHOP - domain[row])
    kinds = np.repeat([CLICK, CART, PURCHASE], [n, len(carts), len(buys)])
    source = np.concatenate([np.arange(n), carts, buys])
    here = np.concatenate([np.ones(n + len(carts), dtype=bool), ~elsewhere])
    when = np.concatenate([click_ts, cart_ts[carts], np.where(elsewhere, later_ts[buys], here_ts[buys])])
    in_time = when < end_ts
    source, here = source[in_time], here[in_time]
    return {
        "event_request": row[source],
        "event_item": lists.item[clicked][source],
        "event_ts": when[in_time],
        "event_domain": np.where(here, domain[row[source]], other[source]),
        "event_kind": kinds[in_time],
        "event_here": here,
    }
