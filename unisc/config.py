"""Frozen dataclasses to canonical JSON and back, dotted overrides, differences, and a run's identity.

Canonical JSON has sorted keys, no spaces, no NaN, and floats by their shortest repr, so that equal configurations give
equal text on every machine. A value is checked against its declared type in both directions (`unisc.codec`): what cannot be
made canonical (a callable, a path, an array, a set, NaN) raises, and so does an unknown or a missing key.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from unisc.codec import TAG, decode, encode, join, nearest, place, show
from unisc.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Runtime:
    """Where and how a run runs; never part of its identity, so nothing here may change its result."""

    work_dir: str
    """A folder of the run's own, kept when it is interrupted: checkpoints go here."""
    data_dir: str
    num_threads: int = 1
    log_every_steps: int = 100
    checkpoint_every_steps: int = 2000
    profile: bool = False

    def report(self, frac_done: float) -> None:
        """Tell whoever watches how far the run is, 0 to 1. A sweep's worker listens; by default nobody does."""

    def should_stop(self) -> bool:
        """Return whether the run is to save itself and raise `unisc.errors.Stopped`; one that asks is given time to."""
        return False


def to_json(config: Any) -> str:
    """Return a configuration's canonical JSON.

    Raises:
      InputError: a value is not of its declared type or cannot be made canonical; the message names its dotted path.
    """
    return canonical(to_plain(config))


def to_plain(config: Any) -> dict[str, Any]:
    """Return a configuration as dicts, lists, strings, numbers, booleans and None, checked against its declared types."""
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise InputError(f"{show(config)} is not a configuration; give an instance of a frozen dataclass")
    return encode(type(config), config, "")


def canonical(plain: Any) -> str:
    """Return the one canonical text of plain JSON values."""
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def from_json(cls: type[T], text: str) -> T:
    """Return the configuration of class `cls` that `text` describes.

    Raises:
      InputError: not JSON, an unknown or missing key, or a value of the wrong type; names the dotted path and nearest field.
    """
    try:
        plain = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except InputError:
        raise
    except (ValueError, RecursionError) as e:
        raise InputError(f"{cls.__name__}: not valid JSON ({e})") from e
    return from_plain(cls, plain)


def from_plain(cls: type[T], plain: Any) -> T:
    """Return the configuration of class `cls` held by parsed JSON, as strictly as `from_json`."""
    return decode(cls, plain, "")


def override(config: T, changes: Mapping[str, Any]) -> T:
    """Return a copy of a configuration with dotted fields changed: `override(c, {"model.hfa_dim": 8})`.

    All changes apply at once, so a check across fields sees only the final state.

    Raises:
      InputError: no such field (the nearest is named), two changes of which one contains the other, or a wrong type.
    """
    tree = to_plain(config)
    for path, value in changes.items():
        for other in changes:
            if other.startswith(path + "."):
                raise InputError(f"{path} and {other} are both changed, and one contains the other; give one of them")
        *parents, last = path.split(".")
        node, seen = tree, ""
        for key in parents:
            node, seen = _step(node, key, seen), join(seen, key)
        _step(node, last, seen)
        node[last] = value
    return decode(type(config), tree, "")


def diff(a: Any, b: Any) -> dict[str, tuple[Any, Any]]:
    """Return the canonical values in which two configurations of one class differ, by dotted path: `{path: (a, b)}`."""
    if type(a) is not type(b):
        raise InputError(f"cannot compare a {type(a).__name__} with a {type(b).__name__}; give two of one class")
    found: dict[str, tuple[Any, Any]] = {}

    def walk(x: Any, y: Any, path: str) -> None:
        if isinstance(x, dict) and isinstance(y, dict) and x.keys() == y.keys() and x.get(TAG) == y.get(TAG):
            for key in x:
                walk(x[key], y[key], join(path, key))
        elif canonical(x) != canonical(y):
            found[path] = (x, y)

    walk(to_plain(a), to_plain(b), "")
    return found


def fingerprint(config: Any, *, version: int | str) -> str:
    """Return a run's identity: 16 hex digits of the sha256 of its canonical configuration and a version bumped by hand."""
    return fingerprint_plain(to_plain(config), version=version)


def fingerprint_plain(plain: Mapping[str, Any], *, version: int | str) -> str:
    """Return the fingerprint of a configuration already in plain form, without needing its class."""
    text = canonical({"config": plain, "version": version})
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _step(node: Any, key: str, seen: str) -> Any:
    if not isinstance(node, dict):
        raise InputError(f"{join(seen, key)}: {place(seen)} holds a plain value, not fields")
    if key not in node:
        raise InputError(f"{join(seen, key)}: no such field{nearest(key, node)}")
    return node[key]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(k for k, _ in pairs if sum(k == other for other, _ in pairs) > 1)
        raise InputError(f"{twice}: given twice in one object; keep one of them")
    return found


def _no_constant(name: str) -> Any:
    raise InputError(f"{name} is not a finite number; JSON has no such value")
