"""Frozen dataclasses to canonical JSON and back, dotted overrides, differences, and a run's identity.

Canonical JSON has sorted keys, no spaces, no NaN, and floats by their shortest repr, so that equal configurations give
equal text on every machine. A value is checked against its declared type in both directions: what cannot be made canonical
(a callable, a path, an array, a set, NaN) raises, and so does an unknown or a missing key. Allowed annotations: bool, int,
float, str, None, Literal, Enum, tuple, Mapping with str keys, dataclasses, and unions of those that JSON can tell apart;
where a union holds several dataclasses, the key "type" names the class.
"""

import dataclasses
import difflib
import functools
import hashlib
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, TypeVar

from unisc.errors import InputError

T = TypeVar("T")
TAG = "type"


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


def to_json(config: Any) -> str:
    """Return a configuration's canonical JSON.

    Raises:
      InputError: a value is not of its declared type or cannot be made canonical; the message names its dotted path.
    """
    return canonical(to_plain(config))


def to_plain(config: Any) -> dict[str, Any]:
    """Return a configuration as dicts, lists, strings, numbers, booleans and None, checked against its declared types."""
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise InputError(f"{_show(config)} is not a configuration; give an instance of a frozen dataclass")
    return _encode(type(config), config, "")


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
    return _decode(cls, plain, "")


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
            node, seen = _step(node, key, seen), _join(seen, key)
        _step(node, last, seen)
        node[last] = value
    return _decode(type(config), tree, "")


def diff(a: Any, b: Any) -> dict[str, tuple[Any, Any]]:
    """Return the canonical values in which two configurations of one class differ, by dotted path: `{path: (a, b)}`."""
    if type(a) is not type(b):
        raise InputError(f"cannot compare a {type(a).__name__} with a {type(b).__name__}; give two of one class")
    found: dict[str, tuple[Any, Any]] = {}

    def walk(x: Any, y: Any, path: str) -> None:
        if isinstance(x, dict) and isinstance(y, dict) and x.keys() == y.keys() and x.get(TAG) == y.get(TAG):
            for key in x:
                walk(x[key], y[key], _join(path, key))
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


# Values to plain JSON and back, led by the declared type. A type JSON cannot tell apart is the programmer's mistake
# (TypeError); a value that does not fit is the user's (InputError).


def _encode(hint: Any, value: Any, path: str) -> Any:
    hint = _member(hint, value, path)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value
    if origin is tuple:
        items = _tuple_hints(args, len(value), path)
        return [_encode(h, v, f"{path}[{i}]") for i, (h, v) in enumerate(zip(items, value, strict=True))]
    if _is_mapping(hint):
        return {_str_key(k, path): _encode(_mapping_value(hint), v, _join(path, k)) for k, v in value.items()}
    if dataclasses.is_dataclass(hint):
        return {name: _encode(h, getattr(value, name), _join(path, name)) for name, h in _fields(hint).items()}
    if isinstance(hint, _TaggedUnion):
        plain = _encode(type(value), value, path)
        return {**plain, TAG: type(value).__name__}
    if isinstance(hint, type) and issubclass(hint, Enum):
        return value.name
    if hint is float:
        return _finite(value, path) + 0.0  # -0.0 equals 0.0, so they must share one text
    if hint is int:
        return int(value)
    return value


def _decode(hint: Any, value: Any, path: str) -> Any:
    hint = _member(hint, value, path, plain=True)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        items = _tuple_hints(args, len(value), path)
        return tuple(_decode(h, v, f"{path}[{i}]") for i, (h, v) in enumerate(zip(items, value, strict=True)))
    if _is_mapping(hint):
        return {_str_key(k, path): _decode(_mapping_value(hint), v, _join(path, k)) for k, v in value.items()}
    if isinstance(hint, _TaggedUnion):
        if not isinstance(value, dict):
            return _decode(type(value), value, path)
        classes = {c.__name__: c for c in hint.classes}
        if TAG not in value:
            raise InputError(f'{_name(path)}: needs the key "{TAG}", one of {", ".join(sorted(classes))}')
        cls = classes.get(value[TAG]) if isinstance(value[TAG], str) else None
        if cls is None:
            raise InputError(f"{_join(path, TAG)}: no class {_show(value[TAG])}{_nearest(value[TAG], classes)}")
        return _decode(cls, {k: v for k, v in value.items() if k != TAG}, path)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            _encode(hint, value, path)
            return value
        return _build(hint, value, path)
    if isinstance(hint, type) and issubclass(hint, Enum):
        if isinstance(value, hint):
            return value
        if value not in hint.__members__:
            raise InputError(f"{_name(path)}: no {hint.__name__} {value!r}{_nearest(value, hint.__members__)}")
        return hint[value]
    if hint is float:
        return _finite(value, path)
    return value


def _build(cls: Any, plain: Mapping[str, Any], path: str) -> Any:
    hints = _fields(cls)
    for key in plain:
        if key not in hints:
            raise InputError(f"{_join(path, str(key))}: {cls.__name__} has no field {key!r}{_nearest(key, hints)}")
    missing = [name for name in hints if name not in plain]
    if missing:
        raise InputError(f"{_join(path, missing[0])}: missing; {cls.__name__} needs {', '.join(hints)}")
    values = {name: _decode(h, plain[name], _join(path, name)) for name, h in hints.items()}
    try:
        return cls(**values)
    except ValueError as e:  # a check in __post_init__
        raise InputError(f"{_name(path)}: {e}") from e


class _TaggedUnion(typing.NamedTuple):
    """Several dataclasses in one union; not itself a dataclass, so that `is_dataclass` tells the two apart."""

    classes: tuple[type, ...]


_KINDS = {bool: "boolean", int: "number", float: "number", str: "string", types.NoneType: "null", None: "null"}


@functools.cache
def _fields(cls: Any) -> dict[str, Any]:
    """Field names and hints of a dataclass, in declared order."""
    params = cls.__dataclass_params__
    if not params.frozen:
        raise TypeError(f"{cls.__name__} must be a frozen dataclass")
    hints = typing.get_type_hints(cls)
    for f in dataclasses.fields(cls):
        if not f.init:
            raise TypeError(f"{cls.__name__}.{f.name} has init=False; make it a property")
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


@functools.cache
def _members(hint: Any) -> dict[str, Any]:
    """The members of a hint by JSON kind; a kind that two members share is refused, except several dataclasses."""
    parts = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    classes = tuple(p for p in parts if dataclasses.is_dataclass(p))
    found: dict[str, Any] = {}
    if len(classes) > 1:
        if len({c.__name__ for c in classes}) < len(classes):  # type: ignore[union-attr]
            raise TypeError(f"{hint}: two classes share a name, so JSON cannot tell them apart")
        for c in classes:
            if TAG in _fields(c):
                raise TypeError(f"{c} has a field {TAG!r}, which tags the classes of a union")
        found["object"] = _TaggedUnion(classes)  # type: ignore[arg-type]
        parts = tuple(p for p in parts if p not in classes)
    for part in parts:
        for kind in _kinds(part):
            if kind in found:
                raise TypeError(f"{hint}: JSON cannot tell {found[kind]} from {part}")
            found[kind] = part
    return found


def _kinds(hint: Any) -> set[str]:
    if typing.get_origin(hint) is Literal:
        return {_KINDS[type(v)] for v in typing.get_args(hint)}
    if typing.get_origin(hint) is tuple:
        return {"array"}
    if dataclasses.is_dataclass(hint) or (_is_mapping(hint) and typing.get_args(hint)[0] is str):
        return {"object"}
    if isinstance(hint, type) and issubclass(hint, Enum):
        return {"string"}
    if hint in _KINDS:
        return {_KINDS[hint]}
    raise TypeError(f"{hint} has no canonical form; use bool, int, float, str, Literal, Enum, tuple, Mapping or a dataclass")


def _member(hint: Any, value: Any, path: str, *, plain: bool = False) -> Any:
    """Return the one member of `hint` that `value` fits, or raise. With `plain`, JSON forms are accepted as well."""
    members = _members(hint)
    kind = _value_kind(value, plain=plain)
    part = members.get(kind)
    if part is None or not _fits(part, value, plain=plain):
        if isinstance(value, float) and not math.isfinite(value) and "number" in members:
            _finite(value, path)
        wanted = " or ".join(_describe(p) for p in dict.fromkeys(members.values()))
        raise InputError(f"{_name(path)}: {_show(value)} is not {wanted}")
    return part


def _value_kind(value: Any, *, plain: bool) -> str:
    if isinstance(value, Enum):
        return "string"
    if isinstance(value, tuple) or (plain and isinstance(value, list)):
        return "array"
    if isinstance(value, Mapping) or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
        return "object"
    for cls in (bool, int, float, str, types.NoneType):  # bool first: it is an int
        if isinstance(value, cls):
            return _KINDS[cls]
    return "none of them"


def _fits(part: Any, value: Any, *, plain: bool) -> bool:
    if typing.get_origin(part) is Literal:
        return any(type(v) is type(value) and v == value for v in typing.get_args(part))
    if isinstance(part, _TaggedUnion):
        return type(value) in part.classes or (plain and isinstance(value, dict))
    if dataclasses.is_dataclass(part):
        return type(value) is part or (plain and isinstance(value, dict))
    if isinstance(part, type) and issubclass(part, Enum):
        return isinstance(value, part) or (plain and isinstance(value, str) and not isinstance(value, Enum))
    if _is_mapping(part):
        return isinstance(value, Mapping)
    if part in (int, str):
        return isinstance(value, part) and not isinstance(value, Enum)
    if part is float:
        return not isinstance(value, Enum)
    return True


def _tuple_hints(args: tuple[Any, ...], length: int, path: str) -> tuple[Any, ...]:
    if len(args) == 2 and args[1] is Ellipsis:
        return (args[0],) * length
    args = () if args == ((),) else args
    if len(args) != length:
        raise InputError(f"{_name(path)}: has {length} values where {len(args)} are needed")
    return args


def _finite(value: Any, path: str) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InputError(f"{_name(path)}: {_show(value)} is not a finite number")
    return number


def _is_mapping(hint: Any) -> bool:
    origin = typing.get_origin(hint)
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _mapping_value(hint: Any) -> Any:
    return typing.get_args(hint)[1]


def _str_key(key: Any, path: str) -> str:
    if not isinstance(key, str):
        raise InputError(f"{_name(path)}: the key {_show(key)} is not a string")
    return key


def _step(node: Any, key: str, seen: str) -> Any:
    if not isinstance(node, dict):
        raise InputError(f"{_join(seen, key)}: {_name(seen)} holds a plain value, not fields")
    if key not in node:
        raise InputError(f"{_join(seen, key)}: no such field{_nearest(key, node)}")
    return node[key]


def _describe(part: Any) -> str:
    if typing.get_origin(part) is Literal:
        return "one of " + ", ".join(repr(v) for v in typing.get_args(part))
    if isinstance(part, _TaggedUnion):
        return "one of " + ", ".join(c.__name__ for c in part.classes)
    if isinstance(part, type) and issubclass(part, Enum):
        return "one of " + ", ".join(part.__members__)
    if part in (None, types.NoneType):
        return "None"
    name = part.__name__ if isinstance(part, type) and not typing.get_args(part) else str(part)
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def _nearest(key: Any, names: typing.Iterable[str]) -> str:
    names = sorted(names)
    close = difflib.get_close_matches(str(key), names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(names) or 'none'}"


def _show(value: Any) -> str:
    text = " ".join(repr(value).split())
    return f"{text[:60]}{'...' if len(text) > 60 else ''} ({type(value).__name__})"


def _name(path: str) -> str:
    return path or "the configuration"


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(k for k, _ in pairs if sum(k == other for other, _ in pairs) > 1)
        raise InputError(f"{twice}: given twice in one object; keep one of them")
    return found


def _no_constant(name: str) -> Any:
    raise InputError(f"{name} is not a finite number; JSON has no such value")
