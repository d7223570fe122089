"""Small combinators that make lists of configurations.

A *point* is a mapping of dotted fields to values. `axis` makes a list of points, `product`, `zipped` and `chain` combine
lists, and `configs` applies them to a base:

    points = product(axis("model.embed_dim", 16, 32), chain(axis("seed", 0, 1), axis("num_examples", 1000)))
    runs = dedupe(configs(base, points))
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from unisc.config import override, to_json
from unisc.errors import InputError

T = TypeVar("T")
Point = Mapping[str, Any]


def axis(field: str, *values: Any) -> list[Point]:
    """Return one point a value of a dotted field."""
    return [{field: value} for value in values]


def product(*lists: Sequence[Point]) -> list[Point]:
    """Return every combination of one point from each list, the last list changing fastest."""
    return [_merge(points) for points in itertools.product(*lists)]


def zipped(*lists: Sequence[Point]) -> list[Point]:
    """Return the first points of all lists together, then the second, and so on; the lists must be equally long."""
    lengths = [len(points) for points in lists]
    if len(set(lengths)) > 1:
        raise InputError(f"zipped lists have {', '.join(map(str, lengths))} points; give them the same number")
    return [_merge(points) for points in zip(*lists, strict=True)]


def chain(*lists: Iterable[Point]) -> list[Point]:
    """Return the points of all lists one after another."""
    return list(itertools.chain.from_iterable(lists))


def configs(base: T, points: Iterable[Point]) -> list[T]:
    """Return the base configuration changed by each point.

    Raises:
      InputError: a point names no field of the base or gives it a value of the wrong type.
    """
    return [override(base, point) for point in points]


def dedupe(configurations: Iterable[T]) -> list[T]:
    """Return the configurations with later repeats left out; equal means equal canonical JSON."""
    seen: dict[str, T] = {}
    for config in configurations:
        seen.setdefault(to_json(config), config)
    return list(seen.values())


def _merge(points: Iterable[Point]) -> Point:
    merged: dict[str, Any] = {}
    for point in points:
        for field, value in point.items():
            if field in merged:
                raise InputError(f"{field}: set by two lists of one combination; keep it in one of them")
            merged[field] = value
    return merged
