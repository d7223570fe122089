"""The rules that decide a click: full pairwise tables of weights between fields of Zipf frequency.

Each cell of a table is one conjunction ("segment 3 and brand 17"), met as often as its two fields meet; so rules come in order
of frequency, and a model that learns more of them, from more samples or in more parameters, predicts better
(the quantization model of neural scaling, Michaud et al., arXiv 2303.13506).
"""

from dataclasses import dataclass

import numpy as np

from data_gen.marketplace.config import BUDGETS, DOMAINS, HOUR_BUCKETS, SCENES, MarketplaceConfig

PRICE_BUCKETS = 10

SCALES = {
    "brand": 0.25,
    "leaf": 0.2,
    "leaf_brand": 0.5,
    "leaf_attribute": 0.4,
    "segment_category_1": 0.4,
    "segment_leaf": 0.65,
    "segment_brand": 0.7,
    "segment_attribute": 0.4,
    "hour_category_2": 0.3,
    "budget_price": 0.35,
    "context": 0.2,
    "context_leaf": 0.2,
    "context_brand": 0.3,
    "context_attribute": 0.2,
}
"""Standard deviation of each family's weights, in click logits at `rule_scale` 1."""

LEAF_MISMATCH = (0.0, -0.9, -1.5, -2.0)
"""Search only: the item is in the query's leaf, in its category_2, in its category_1, elsewhere."""
BRAND_MATCH, ATTRIBUTE_MATCH = 0.9, 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """Weight tables in click logits, float32; D domains. The last attribute column is padding and zero.

    A *context* is what a request is about: a query, a scene or a shop, numbered in this order; so context tables need no
    domain axis and share nothing between domains.
    """

    brand: np.ndarray  # (D, brands)
    leaf: np.ndarray  # (D, leaves)
    leaf_brand: np.ndarray  # (D, leaves, brands)
    leaf_attribute: np.ndarray  # (D, leaves, attributes + 1)
    segment_category_1: np.ndarray  # (D, segments, category_1)
    segment_leaf: np.ndarray  # (D, segments, leaves)
    segment_brand: np.ndarray  # (D, segments, brands)
    segment_attribute: np.ndarray  # (D, segments, attributes + 1)
    hour_category_2: np.ndarray  # (D, hour buckets, category_2)
    budget_price: np.ndarray  # (D, budgets, price buckets)
    context: np.ndarray  # (contexts,)
    context_leaf: np.ndarray  # (contexts, leaves)
    context_brand: np.ndarray  # (contexts, brands)
    context_attribute: np.ndarray  # (contexts, attributes + 1)


def mix_domains(rng: np.random.Generator, shape: tuple[int, ...], overlap: float) -> np.ndarray:
    """Return N(0, 1) weights (D, *shape): search's own, and for every other domain rho * search's + sqrt(1 - rho^2) * own."""
    draws = rng.standard_normal((len(DOMAINS), *shape), dtype=np.float32)
    draws[1:] = np.float32(overlap) * draws[:1] + np.float32(np.sqrt(1 - overlap**2)) * draws[1:]
    return draws


def build_rules(
    config: MarketplaceConfig,
    rng: np.random.Generator,
    *,
    query_leaf: np.ndarray,
    query_brand: np.ndarray,
    query_attributes: np.ndarray,
    parents: np.ndarray,
) -> Rules:
    """Draw every table; a query's rows also hold what a good match is worth.

    Shapes: `query_leaf`, `query_brand` (queries,), the latter -1 where the query does not say; `query_attributes` (queries, k)
    padded with `attributes`; `parents` (leaves, 2), the category_1 and category_2 of each leaf.
    """
    c = config
    contexts = c.queries + SCENES + c.shops
    shared = {
        "brand": (c.brands,),
        "leaf": (c.category_3,),
        "leaf_brand": (c.category_3, c.brands),
        "leaf_attribute": (c.category_3, c.attributes + 1),
        "segment_category_1": (c.segments, c.category_1),
        "segment_leaf": (c.segments, c.category_3),
        "segment_brand": (c.segments, c.brands),
        "segment_attribute": (c.segments, c.attributes + 1),
        "hour_category_2": (HOUR_BUCKETS, c.category_2),
        "budget_price": (BUDGETS, PRICE_BUCKETS),
    }
    own = {
        "context": (contexts,),
        "context_leaf": (contexts, c.category_3),
        "context_brand": (contexts, c.brands),
        "context_attribute": (contexts, c.attributes + 1),
    }
    tables = {name: mix_domains(rng, shape, c.domain_overlap) for name, shape in shared.items()}
    tables |= {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in own.items()}
    for name, table in tables.items():
        table *= np.float32(SCALES[name] * c.rule_scale)

    queries = np.arange(c.queries)
    same_leaf = query_leaf[:, None] == np.arange(c.category_3)
    same_1, same_2 = (parents[query_leaf, k][:, None] == parents[:, k] for k in (0, 1))
    near, far = [np.float32(x) for x in LEAF_MISMATCH[:3]], np.float32(LEAF_MISMATCH[3])
    tables["context_leaf"][queries] += np.select([same_leaf, same_2, same_1], near, far)
    said = query_brand >= 0
    tables["context_brand"][queries[said], query_brand[said]] += np.float32(BRAND_MATCH)
    for k in range(query_attributes.shape[1]):
        tables["context_attribute"][queries, query_attributes[:, k]] += np.float32(ATTRIBUTE_MATCH)
    for name, table in tables.items():
        if name.endswith("attribute"):
            table[..., -1] = 0
    return Rules(**tables)
