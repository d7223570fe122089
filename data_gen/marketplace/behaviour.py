"""What a visitor does with a list: the true utility of every candidate, clicks by slot, and what follows a click."""

from dataclasses import dataclass

import numpy as np

from data_gen.marketplace.config import MarketplaceConfig
from data_gen.marketplace.world import World

POSITION_BY_DOMAIN = np.array([1.0, 0.7, 0.8], dtype=np.float32)
CARRY_SECONDS = 86_400
INTEREST = 0.8
"""Logit of an item in one of the visitor's own categories of interest, times `user_taste`."""
BUY_BIAS, CART_SHARE = -1.6, 0.15


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """What is known of each request when its list is made; all (R,) but `taste` (R, k) and `interests` (R, j)."""

    domain: np.ndarray
    segment: np.ndarray
    budget: np.ndarray
    hour: np.ndarray
    context: np.ndarray
    taste: np.ndarray
    interests: np.ndarray
    carried_leaf: np.ndarray  # leaf of the visitor's search within the last day; -1 none, and in search


def take2(table: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return table[rows, columns] of a table of two axes, by one flat take (fancy indexing is several times slower)."""
    return table.ravel().take(rows * table.shape[-1] + columns)


def coarse_utility(world: World, page: Page, row: np.ndarray, item: np.ndarray) -> np.ndarray:
    """Return the part of the utility that a pre-ranker gets right: item, segment x leaf, context x leaf."""
    rules, leaf = world.rules, world.leaf.take(item)
    of_segment = page.domain * rules.segment_leaf.shape[1] + page.segment
    utility = take2(world.item_utility, page.domain.take(row), item)
    utility += take2(rules.segment_leaf.reshape(-1, rules.segment_leaf.shape[2]), of_segment.take(row), leaf)
    utility += take2(rules.context_leaf, page.context.take(row), leaf)
    return utility


def utility(world: World, page: Page, row: np.ndarray, item: np.ndarray, coarse: np.ndarray) -> np.ndarray:
    """Return each candidate's click logit in the top slot before fatigue: `coarse` plus every other rule, taste and price."""
    c, rules = world.config, world.rules
    brand = world.brand.take(item)
    context = page.context.take(row)
    of_segment = (page.domain * c.segments + page.segment).take(row)
    per_request = rules.context.take(page.context) + world.bias.take(page.domain)
    total = coarse + per_request.take(row)
    total += take2(rules.segment_brand.reshape(-1, c.brands), of_segment, brand)
    total += take2(rules.context_brand, context, brand)
    in_segment, in_context = of_segment * (c.attributes + 1), context * (c.attributes + 1)
    segment_attribute, context_attribute = rules.segment_attribute.ravel(), rules.context_attribute.ravel()
    for slot in world.attributes:
        attribute = slot.take(item)
        total += segment_attribute.take(in_segment + attribute)
        total += context_attribute.take(in_context + attribute)
    category_1, category_2 = (world.categories[k].take(item) for k in (0, 1))
    total += take2(rules.segment_category_1.reshape(-1, c.category_1), of_segment, category_1)
    of_hour = (page.domain * rules.hour_category_2.shape[1] + page.hour).take(row)
    total += take2(rules.hour_category_2.reshape(-1, c.category_2), of_hour, category_2)
    of_budget = (page.domain * rules.budget_price.shape[1] + page.budget).take(row)
    total += take2(rules.budget_price.reshape(-1, rules.budget_price.shape[2]), of_budget, world.price_bucket.take(item))
    total += price_slope(c).take(page.budget).take(row) * world.price_z.take(item)
    total += np.float32(c.taste_scale / np.sqrt(page.taste.shape[1])) * np.einsum(
        "nk,nk->n", page.taste.take(row, axis=0), world.item_factors.take(item, axis=0)
    )
    leaf = world.leaf.take(item)
    if c.user_taste > 0:
        liked = np.zeros(len(item), dtype=bool)
        for interest in page.interests.T:
            liked |= interest.take(row) == leaf
        total += np.float32(INTEREST * c.user_taste) * liked
    if c.carry_scale > 0:
        total += np.float32(c.carry_scale) * (page.carried_leaf.take(row) == leaf)
    return total


def price_slope(config: MarketplaceConfig) -> np.ndarray:
    """Return the logit a standard deviation of log price is worth, by budget: poor visitors flee it, rich ones seek it."""
    return np.float32(config.price_scale) * np.array([-1.6, -1.1, -0.6, -0.1, 0.4], dtype=np.float32)


def position_term(config: MarketplaceConfig, domain: np.ndarray, trust: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Return the logit of a slot (0 at the top, falling), milder for segments that trust the shop."""
    depth = np.log1p(position.astype(np.float32)) / np.float32(np.log(20.0))
    strength = (np.float32(1.3) - np.float32(0.6) * trust) * POSITION_BY_DOMAIN.take(domain)
    return -np.float32(config.position_scale) * strength * depth


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Return the logistic function of float32 logits."""
    return 1 / (1 + np.exp(-x))


def buy_probability(world: World, page: Page, row: np.ndarray, item: np.ndarray, click_logit: np.ndarray) -> np.ndarray:
    """Return P(purchase | click) of each candidate: liked and affordable things are bought."""
    fits = np.float32(0.8) * price_slope(world.config).take(page.budget).take(row) * world.price_z.take(item)
    liked = np.float32(0.35) * click_logit
    return sigmoid(np.float32(BUY_BIAS) + liked + fits)
