"""The world behind the logs: catalogue, queries, visitors and the rules of their taste, as plain arrays.

Built once a process from the configuration alone. Streams of random numbers are separate by subject, so that changing the
number of users leaves the catalogue as it was.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from data_gen.marketplace.config import (
    BUDGETS,
    DAY,
    DOMAINS,
    MAX_ATTRIBUTES,
    REC,
    SCENES,
    SEARCH,
    START_TS,
    MarketplaceConfig,
)
from data_gen.marketplace.draws import Pool, RowChoice, choose, ranges, zipf
from data_gen.marketplace.rules import PRICE_BUCKETS, Rules, build_rules, mix_domains
from data_gen.marketplace.text import item_titles, make_words, query_text

TASTE_DIM = 8
RECALL_FLATTENING, SHOP_FLATTENING = 0.7, 0.3
"""Recall draws by popularity to these powers: a page is not ten best-sellers ten times."""
_BUDGET_SHARES = np.array([0.15, 0.25, 0.3, 0.2, 0.1])
_CATALOGUE, _SHOPS, _QUERIES, _RULES, _ITEM_EFFECTS, _FACTORS, _USERS, _WORDS = range(1, 9)


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """Everything fixed before the first request. Ids are dense; axes are D domains, I items, Q queries, U users, S segments."""

    config: MarketplaceConfig
    rules: Rules
    bias: np.ndarray  # (D,) click logit of a middling item in the top slot
    parents: np.ndarray  # (leaves, 2) category_1 and category_2 of each leaf
    # items (I,)
    leaf: np.ndarray
    brand: np.ndarray
    shop: np.ndarray
    categories: np.ndarray  # (2, I) category_1 and category_2
    attributes: np.ndarray  # (k, I), padded with `config.attributes`
    price: np.ndarray
    price_bucket: np.ndarray
    price_z: np.ndarray  # log price, standardised over all items
    log_popularity: np.ndarray  # of a Zipf law, standardised
    created_ts: np.ndarray
    item_utility: np.ndarray  # (D, I) rules and effects of the item alone
    item_factors: np.ndarray  # (I, TASTE_DIM)
    titles: list[str]
    near_leaf: Pool  # groups: every leaf, its category_2, its category_1 (3 * leaves), then everything
    in_shop: Pool
    # queries (Q,)
    query_leaf: np.ndarray
    query_says_leaf: np.ndarray
    query_brand: np.ndarray  # -1 where the query does not say
    query_attributes: np.ndarray  # (Q, 2), padded with `config.attributes`
    query_text: list[str]
    query_of_leaf: Pool
    # users (U,)
    segment: np.ndarray
    budget: np.ndarray
    requests_of: np.ndarray  # requests each user makes
    # segments (S,)
    segment_factors: np.ndarray  # (S, TASTE_DIM)
    segment_leaves: RowChoice
    trust: np.ndarray  # how little a segment cares for the slot, in [0, 1]


def build_world(config: MarketplaceConfig) -> World:
    """Build the world of a configuration (deterministic), with biases still 0; `calibrate.open_world` sets them."""
    c = config
    leaves = c.category_3
    of_2 = np.arange(leaves) * c.category_2 // leaves
    parents = np.stack([of_2 * c.category_1 // c.category_2, of_2], axis=1).astype(np.int32)
    rng = _stream(c, _CATALOGUE)
    demand = rng.permutation(zipf(leaves, 1.0))
    brands = RowChoice.around(rng, leaves, zipf(c.brands, 1.0), spread=1.0)
    attributes = RowChoice.around(rng, leaves, rng.permutation(zipf(c.attributes, 0.8)), spread=2.0)
    items = _build_items(c, rng, demand, brands, attributes, parents)
    queries = _build_queries(c, demand, brands, attributes)
    rules = build_rules(
        c,
        _stream(c, _RULES),
        **{name: queries[name] for name in ("query_leaf", "query_brand", "query_attributes")},
        parents=parents,
    )
    leaf, brand = items["leaf"], items["brand"]
    item_utility = rules.brand[:, brand] + rules.leaf[:, leaf] + rules.leaf_brand[:, leaf, brand]
    for slot in items["attributes"]:
        item_utility += rules.leaf_attribute[:, leaf, slot]
    item_utility += np.float32(c.item_scale) * mix_domains(_stream(c, _ITEM_EFFECTS), (c.items,), c.domain_overlap)
    return World(
        config=c,
        rules=rules,
        bias=np.zeros(len(DOMAINS), dtype=np.float32),
        parents=parents,
        item_utility=item_utility,
        **items,
        **queries,
        **_build_users(c),
        **_build_tastes(c, demand, items),
        **_build_text(c, items, queries),
    )


def _stream(config: MarketplaceConfig, subject: int) -> np.random.Generator:
    return np.random.default_rng([config.seed, 0, subject])


def _distinct(rng: np.random.Generator, choice: RowChoice, rows: np.ndarray, k: int) -> np.ndarray:
    """Return (k, len(rows)) choices by row; a repeated draw becomes padding (`choice.n`)."""
    drawn = np.sort(np.stack([choice.draw(rng, rows) for _ in range(k)]), axis=0)
    drawn[1:][drawn[1:] == drawn[:-1]] = choice.n
    return np.sort(drawn, axis=0)


def _build_items(
    c: MarketplaceConfig,
    rng: np.random.Generator,
    demand: np.ndarray,
    brands: RowChoice,
    attributes: RowChoice,
    parents: np.ndarray,
) -> dict[str, Any]:
    # A leaf's share of the items is flatter than its share of the demand, or rare leaves could not fill a page.
    leaf = np.concatenate([np.arange(c.category_3), choose(rng, np.sqrt(demand), c.items - c.category_3)]).astype(np.int32)
    rng.shuffle(leaf)
    brand = brands.draw(rng, leaf)
    log_price = rng.normal(3.2, 0.9, c.category_3)[leaf] + rng.normal(0, 0.35, c.brands)[brand] + rng.normal(0, 0.3, c.items)
    price = np.maximum(np.round(np.exp(log_price), 2), 0.01).astype(np.float32)
    log_price = np.log(price)
    edges = np.quantile(price, np.linspace(0, 1, PRICE_BUCKETS + 1)[1:-1])
    popularity = rng.permutation(zipf(c.items, 1.0))
    log_popularity = np.log(popularity)
    item_attributes = _distinct(rng, attributes, leaf, MAX_ATTRIBUTES)

    # Every shop first gets what a page needs of items that are there from the start; the rest goes to shops by their size.
    rng = _stream(c, _SHOPS)
    new = np.zeros(c.items, dtype=bool)
    new[: c.new_items_per_day * c.days] = True
    rng.shuffle(new)
    shop = choose(rng, zipf(c.shops, 0.7), c.items)
    quota = c.shops * c.shop_floor
    shop[rng.permutation(np.flatnonzero(~new))[:quota]] = np.arange(quota) % c.shops
    created = START_TS - rng.integers(DAY, 400 * DAY, c.items)
    created[new] = START_TS + rng.integers(0, c.days * DAY, int(new.sum()))

    near = Pool.of(leaf, popularity**RECALL_FLATTENING, c.category_3)
    in_order = leaf[near.order]
    of_1, of_2 = parents.T
    groups = np.concatenate(
        [
            near.ranges,
            ranges(of_2[in_order], c.category_2)[of_2],
            ranges(of_1[in_order], c.category_1)[of_1],
            [[0, c.items]],
        ]
    )
    return {
        "leaf": leaf,
        "brand": brand,
        "shop": shop,
        "categories": parents[leaf].T.copy(),
        "attributes": item_attributes,
        "price": price,
        "price_bucket": np.searchsorted(edges, price, side="right").astype(np.int32),
        "price_z": ((log_price - log_price.mean()) / log_price.std()).astype(np.float32),
        "log_popularity": ((log_popularity - log_popularity.mean()) / log_popularity.std()).astype(np.float32),
        "created_ts": created,
        "near_leaf": Pool(order=near.order, cumulative=near.cumulative, ranges=groups),
        "in_shop": Pool.of(shop, popularity**SHOP_FLATTENING, c.shops),
    }


def _build_queries(c: MarketplaceConfig, demand: np.ndarray, brands: RowChoice, attributes: RowChoice) -> dict[str, Any]:
    """Draw a head, a torso and a tail of queries; every leaf has at least one."""
    rng = _stream(c, _QUERIES)
    leaf = np.concatenate([np.arange(c.category_3), choose(rng, demand, c.queries - c.category_3)]).astype(np.int32)
    rng.shuffle(leaf)
    brand = np.where(rng.random(c.queries) < 0.45, brands.draw(rng, leaf), -1).astype(np.int32)
    said = _distinct(rng, attributes, leaf, 2)
    said[0, rng.random(c.queries) < 0.4] = c.attributes
    said[1, rng.random(c.queries) < 0.6] = c.attributes
    # Only a query that says something else may leave its category unsaid.
    says_leaf = (rng.random(c.queries) >= 0.06) | ((brand < 0) & (said == c.attributes).all(axis=0))
    weight = rng.permutation(zipf(c.queries, 1.2))
    return {
        "query_leaf": leaf,
        "query_says_leaf": says_leaf,
        "query_brand": brand,
        "query_attributes": said.T.copy(),
        "query_of_leaf": Pool.of(leaf, weight, c.category_3),
    }


def _build_users(c: MarketplaceConfig) -> dict[str, Any]:
    rng = _stream(c, _USERS)
    segment = choose(rng, zipf(c.segments, 1.25), c.users)
    budget = choose(rng, _BUDGET_SHARES[:BUDGETS], c.users)
    activity = rng.gamma(3.0, size=c.users)
    return {"segment": segment, "budget": budget, "requests_of": rng.multinomial(c.requests, activity / activity.sum())}


def _build_tastes(c: MarketplaceConfig, demand: np.ndarray, items: dict[str, Any]) -> dict[str, Any]:
    rng = _stream(c, _FACTORS)
    of_brand, of_leaf, of_attribute = (rng.standard_normal((n, TASTE_DIM)) for n in (c.brands, c.category_3, c.attributes + 1))
    of_attribute[-1] = 0
    factors = of_brand[items["brand"]] + of_leaf[items["leaf"]]
    factors += sum(of_attribute[a] for a in items["attributes"]) / np.sqrt(MAX_ATTRIBUTES)
    factors += c.item_scale * rng.standard_normal((c.items, TASTE_DIM))
    return {
        "item_factors": (factors / np.sqrt((factors**2).mean())).astype(np.float32),
        "segment_factors": rng.standard_normal((c.segments, TASTE_DIM), dtype=np.float32),
        "trust": rng.random(c.segments, dtype=np.float32),
        "segment_leaves": RowChoice.around(rng, c.segments, demand, spread=1.2),
    }


def _build_text(c: MarketplaceConfig, items: dict[str, Any], queries: dict[str, Any]) -> dict[str, Any]:
    rng = _stream(c, _WORDS)
    taken: set[str] = set()
    brand_words = make_words(rng, c.brands, syllables=3, taken=taken)
    attribute_words = make_words(rng, c.attributes, syllables=2, taken=taken)
    leaf_words = make_words(rng, c.category_3, syllables=2, taken=taken)
    columns = (queries[name].tolist() for name in ("query_leaf", "query_says_leaf", "query_brand", "query_attributes"))
    texts = [
        query_text(
            rng,
            ([leaf_words[leaf]] if says else [])
            + ([brand_words[brand]] if brand >= 0 else [])
            + [attribute_words[a] for a in said if a < c.attributes],
        )
        for leaf, says, brand, said in zip(*columns, strict=True)
    ]
    words = (brand_words, attribute_words, leaf_words)
    titles = item_titles(items["brand"], items["attributes"].T, items["leaf"], words)
    return {"titles": titles, "query_text": texts}


def context_code(world: World, domain: np.ndarray, query: np.ndarray, scene: np.ndarray, shop: np.ndarray) -> np.ndarray:
    """Return the row of the context tables of each request (R,): its query, scene or shop."""
    q = world.config.queries
    return np.where(domain == SEARCH, query, np.where(domain == REC, q + scene, q + SCENES + shop))
