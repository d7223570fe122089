"""Weighted draws of many things at once: Zipf weights, choices by row, and pools drawn from by group."""

from dataclasses import dataclass

import numpy as np


def zipf(count: int, exponent: float) -> np.ndarray:
    """Return `count` weights falling as rank^-exponent, summing to 1."""
    weights = np.arange(1, count + 1, dtype=np.float64) ** -exponent
    return weights / weights.sum()


def choose(rng: np.random.Generator, weights: np.ndarray, size: int) -> np.ndarray:
    """Draw `size` indices by `weights`."""
    cumulative = np.cumsum(weights)
    drawn = np.searchsorted(cumulative, rng.random(size) * cumulative[-1], side="right")
    return np.minimum(drawn, len(weights) - 1).astype(np.int32)


def ranges(codes: np.ndarray, count: int) -> np.ndarray:
    """Return [start, end) of each code in a sorted array: (count, 2)."""
    edges = np.searchsorted(codes, np.arange(count + 1))
    return np.stack([edges[:-1], edges[1:]], axis=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class RowChoice:
    """One weighted choice a row, all of them laid end to end so that one search serves any mix of rows."""

    cumulative: np.ndarray  # (rows * n,) row r rises from r to r + 1
    n: int

    @classmethod
    def around(cls, rng: np.random.Generator, rows: int, weights: np.ndarray, *, spread: float) -> "RowChoice":
        """Build choices near the global `weights` (n,), each row with its own likes (log-normal, `spread` in logs)."""
        own = np.cumsum(weights * np.exp(spread * rng.standard_normal((rows, len(weights)))), axis=1)
        return cls(cumulative=(own / own[:, -1:] + np.arange(rows)[:, None]).ravel(), n=len(weights))

    def draw(self, rng: np.random.Generator, rows: np.ndarray) -> np.ndarray:
        """Return one choice for each entry of `rows` (any shape)."""
        drawn = np.searchsorted(self.cumulative, rows + rng.random(rows.shape), side="right") - rows * self.n
        return np.clip(drawn, 0, self.n - 1).astype(np.int32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """Things in an order that keeps groups together, with cumulative weights; a group is a range of the order."""

    order: np.ndarray  # (n,)
    cumulative: np.ndarray  # (n + 1,), from 0
    ranges: np.ndarray  # (groups, 2)

    @classmethod
    def of(cls, codes: np.ndarray, weight: np.ndarray, groups: int) -> "Pool":
        """Build the pool of things with group `codes` (n,) and weights (n,)."""
        order = np.argsort(codes, kind="stable").astype(np.int32)
        return cls(
            order=order, cumulative=np.concatenate([[0.0], np.cumsum(weight[order])]), ranges=ranges(codes[order], groups)
        )

    def draw(self, rng: np.random.Generator, group: np.ndarray) -> np.ndarray:
        """Return one thing from the group of each entry (n,), by weight; an empty group gives a neighbour's."""
        low, high = (self.cumulative[edge] for edge in self.ranges.T)
        base = low.take(group)
        at = np.searchsorted(self.cumulative, base + rng.random(len(group)) * (high.take(group) - base), side="right") - 1
        return self.order.take(np.minimum(at, len(self.order) - 1))
