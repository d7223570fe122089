"""What a generated shop is made of: sizes, shares and strengths, and the two presets."""

import dataclasses
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from unisc.errors import InputError

DOMAINS = ("search", "rec", "shop")
"""Places where requests are made, in the order of their integer codes; the first is the target domain."""
SEARCH, REC, SHOP = range(3)

VERSION = 1
"""Raised by hand whenever the same configuration would generate other logs."""

DAY = 86_400
HOUR_BUCKETS = 8
"""Three-hour parts of the (UTC) day: the bucket of a request is `ts % 86400 // 10800`."""
BUDGETS = 5
SCENES = 8
MAX_ATTRIBUTES = 4
"""Attributes of one item at most (two at least)."""
START_TS = 1_735_689_600
"""The logs begin on 2025-01-01 00:00 UTC."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MarketplaceConfig:
    """A shop, its visitors and how long they are watched.

    Counts are numbers of things; `*_scale` are in units of click logit (a standard deviation or a slope); shares and
    probabilities lie in [0, 1]. The world (catalogue, rules, user attributes) does not depend on `requests`.
    """

    seed: int
    preset: str
    requests: int = 24_000
    days: int = 8
    # catalogue
    items: int = 20_000
    new_items_per_day: int = 150
    category_1: int = 8
    category_2: int = 40
    category_3: int = 160
    brands: int = 120
    shops: int = 100
    attributes: int = 64
    queries: int = 2_000
    # visitors
    users: int = 2_000
    users_per_shard: int = 250
    segments: int = 64
    search_share: float = 0.5
    rec_share: float = 0.35
    session_length: float = 3.0
    # lists
    candidates_min: int = 50
    candidates_max: int = 200
    exposed_min: int = 10
    exposed_max: int = 20
    retargeting: float = 0.3
    ranker_noise: float = 1.3
    # what decides a click
    click_rate: float = 0.15
    domain_overlap: float = 0.7
    rule_scale: float = 1.0
    item_scale: float = 0.2
    price_scale: float = 0.4
    position_scale: float = 0.9
    taste_scale: float = 0.4
    user_taste: float = 0.4
    # what a model cannot see, or sees only through the past
    drift: float = 0.15
    fatigue_scale: float = 0.25
    carry_scale: float = 0.6
    # what follows a click
    finish_elsewhere: float = 0.35

    def __post_init__(self) -> None:
        """Refuse what cannot be a shop.

        Raises:
          InputError: a field out of its range, or fields that contradict each other.
        """
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is int and (type(value) is not int):
                raise InputError(f"marketplace {field.name}={value!r}: a whole number is needed")
            if field.type is float and not (isinstance(value, int | float) and value == value and abs(value) < 1e6):
                raise InputError(f"marketplace {field.name}={value!r}: a finite number is needed")
            low, high = _RANGES.get(field.name, (0, 2**31 - 1))
            if field.type in (int, float) and not low <= value <= high:
                raise InputError(f"marketplace {field.name}={value}: must be from {low} to {high}")
        if self.search_share + self.rec_share > 1:
            raise InputError(
                f"marketplace search_share={self.search_share} and rec_share={self.rec_share}: their sum must be at most 1"
            )
        _at_most(self, "category_1", "category_2")
        _at_most(self, "category_2", "category_3")
        _at_most(self, "category_3", "queries")
        _at_most(self, "candidates_min", "candidates_max")
        _at_most(self, "exposed_min", "exposed_max")
        _at_most(self, "exposed_max", "candidates_min")
        new = self.new_items_per_day * self.days
        floor = max(self.shops * self.shop_floor, self.category_3) + new
        if self.items < floor:
            raise InputError(
                f"marketplace items={self.items}: at least {floor} are needed for shops={self.shops} of {self.shop_floor} "
                f"items each, category_3={self.category_3} and {new} new ones"
            )
        if self.requests > self.users * self.days * 4_000:
            raise InputError(f"marketplace requests={self.requests}: too many for users={self.users}; give more users")

    @property
    def shop_floor(self) -> int:
        """Items a shop has from the start at least, so that its page can be filled."""
        return self.candidates_min + 30

    @property
    def end_ts(self) -> int:
        """First second after the logs."""
        return START_TS + self.days * DAY

    @property
    def test_start(self) -> int:
        """First second of the last day, the test split."""
        return self.end_ts - DAY

    @property
    def shard_users(self) -> int:
        """Users of one shard: `users_per_shard`, or fewer where their view counts of all items would fill the memory."""
        return max(1, min(self.users_per_shard, 2**27 // self.items))

    @property
    def shards(self) -> int:
        """Number of shards, each one part file a table."""
        return -(-self.users // self.shard_users)


def _at_most(config: MarketplaceConfig, low: str, high: str) -> None:
    a, b = getattr(config, low), getattr(config, high)
    if a > b:
        raise InputError(f"marketplace {low}={a}: must be at most {high}={b}")


_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(
        ("search_share", "rec_share", "retargeting", "domain_overlap", "user_taste", "drift", "finish_elsewhere"), (0.0, 1.0)
    ),
    **dict.fromkeys(("requests", "items", "brands", "shops", "queries", "users", "segments"), (1, 2**31 - 1)),
    **dict.fromkeys(("category_1", "category_2", "category_3"), (1, 10_000)),
    **dict.fromkeys(
        ("rule_scale", "item_scale", "price_scale", "position_scale", "taste_scale", "fatigue_scale", "carry_scale"),
        (0.0, 10.0),
    ),
    "click_rate": (0.001, 0.9),
    "seed": (0, 2**63 - 1),
    "days": (2, 3_650),
    "attributes": (MAX_ATTRIBUTES, 100_000),
    "users_per_shard": (1, 8_192),
    "candidates_min": (2, 250),
    "candidates_max": (2, 250),
    "exposed_min": (1, 250),
    "exposed_max": (1, 250),
    "session_length": (1.0, 10.0),
    "ranker_noise": (0.0, 100.0),
}

STATIONARY: dict[str, Any] = {
    "items": 4_000,
    "new_items_per_day": 0,
    "category_1": 4,
    "category_2": 12,
    "category_3": 40,
    "brands": 40,
    "shops": 24,
    "attributes": 32,
    "queries": 160,
    "users": 1_000,
    "segments": 16,
    "item_scale": 0.0,
    "user_taste": 0.0,
    "drift": 0.0,
    "fatigue_scale": 0.0,
    "carry_scale": 0.0,
}
"""No hidden state and few cells, so that the oracle's entropy is a floor that a model can come near."""

PRESETS = MappingProxyType({"default": MappingProxyType({}), "stationary": MappingProxyType(STATIONARY)})


def preset(name: str, *, seed: int, **changes: Any) -> MarketplaceConfig:
    """Return a preset's configuration with some fields changed.

    Raises:
      InputError: an unknown preset or field, or a value out of range.
    """
    if name not in PRESETS:
        raise InputError(f"unknown preset {name!r}: one of {', '.join(PRESETS)}")
    known = {f.name for f in dataclasses.fields(MarketplaceConfig)}
    for unknown in sorted(set(changes) - known):
        raise InputError(f"marketplace has no field {unknown!r}: one of {', '.join(sorted(known))}")
    return MarketplaceConfig(seed=seed, preset=name, **{**PRESETS[name], **changes})
