"""Values of declared types to plain JSON values and back, checked in both directions.

A type that JSON cannot tell apart is the programmer's mistake (TypeError); a value that does not fit is the user's
(InputError), named by its dotted path. Allowed annotations: bool, int, float, str, None, Literal, Enum, tuple, Mapping with str
keys, frozen dataclasses, and unions of those that JSON can tell apart; where a union holds several dataclasses, the key "type"
names the class.
"""

import dataclasses
import difflib
import functools
import math
import types
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any, Literal

from unisc.errors import InputError

TAG = "type"
"""The key that names the class of a union of dataclasses."""


def encode(hint: Any, value: Any, path: str) -> Any:
    """Return a value of the declared type `hint` as plain JSON values. Raises InputError naming the dotted path."""
    hint = _member(hint, value, path)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value
    if origin is tuple:
        items = _tuple_hints(args, len(value), path)
        return [encode(h, v, f"{path}[{i}]") for i, (h, v) in enumerate(zip(items, value, strict=True))]
    if _is_mapping(hint):
        return {_str_key(k, path): encode(_mapping_value(hint), v, join(path, k)) for k, v in value.items()}
    if dataclasses.is_dataclass(hint):
        return {name: encode(h, getattr(value, name), join(path, name)) for name, h in _fields(hint).items()}
    if isinstance(hint, _TaggedUnion):
        plain = encode(type(value), value, path)
        return {**plain, TAG: type(value).__name__}
    if isinstance(hint, type) and issubclass(hint, Enum):
        return value.name
    if hint is float:
        return _finite(value, path) + 0.0  # -0.0 equals 0.0, so they must share one text
    if hint is int:
        return int(value)
    return value


def decode(hint: Any, value: Any, path: str) -> Any:
    """Return the value of the declared type `hint` that plain JSON values describe. Raises InputError naming the path."""
    hint = _member(hint, value, path, plain=True)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        items = _tuple_hints(args, len(value), path)
        return tuple(decode(h, v, f"{path}[{i}]") for i, (h, v) in enumerate(zip(items, value, strict=True)))
    if _is_mapping(hint):
        return {_str_key(k, path): decode(_mapping_value(hint), v, join(path, k)) for k, v in value.items()}
    if isinstance(hint, _TaggedUnion):
        if not isinstance(value, dict):
            return decode(type(value), value, path)
        classes = {c.__name__: c for c in hint.classes}
        if TAG not in value:
            raise InputError(f'{place(path)}: needs the key "{TAG}", one of {", ".join(sorted(classes))}')
        cls = classes.get(value[TAG]) if isinstance(value[TAG], str) else None
        if cls is None:
            raise InputError(f"{join(path, TAG)}: no class {show(value[TAG])}{nearest(value[TAG], classes)}")
        return decode(cls, {k: v for k, v in value.items() if k != TAG}, path)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            encode(hint, value, path)
            return value
        return _build(hint, value, path)
    if isinstance(hint, type) and issubclass(hint, Enum):
        if isinstance(value, hint):
            return value
        if value not in hint.__members__:
            raise InputError(f"{place(path)}: no {hint.__name__} {value!r}{nearest(value, hint.__members__)}")
        return hint[value]
    if hint is float:
        return _finite(value, path)
    return value


def _build(cls: Any, plain: Mapping[str, Any], path: str) -> Any:
    hints = _fields(cls)
    for key in plain:
        if key not in hints:
            raise InputError(f"{join(path, str(key))}: {cls.__name__} has no field {key!r}{nearest(key, hints)}")
    missing = [name for name in hints if name not in plain]
    if missing:
        raise InputError(f"{join(path, missing[0])}: missing; {cls.__name__} needs {', '.join(hints)}")
    values = {name: decode(h, plain[name], join(path, name)) for name, h in hints.items()}
    try:
        return cls(**values)
    except ValueError as e:  # a check in __post_init__
        raise InputError(f"{place(path)}: {e}") from e


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
        raise InputError(f"{place(path)}: {show(value)} is not {wanted}")
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
        raise InputError(f"{place(path)}: has {length} values where {len(args)} are needed")
    return args


def _finite(value: Any, path: str) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InputError(f"{place(path)}: {show(value)} is not a finite number")
    return number


def _is_mapping(hint: Any) -> bool:
    origin = typing.get_origin(hint)
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _mapping_value(hint: Any) -> Any:
    return typing.get_args(hint)[1]


def _str_key(key: Any, path: str) -> str:
    if not isinstance(key, str):
        raise InputError(f"{place(path)}: the key {show(key)} is not a string")
    return key


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


def nearest(key: Any, names: typing.Iterable[str]) -> str:
    """Say which name is nearest to a wrong one, as the end of a message."""
    names = sorted(names)
    close = difflib.get_close_matches(str(key), names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(names) or 'none'}"


def show(value: Any) -> str:
    """Show a wrong value and its type in part of a line."""
    text = " ".join(repr(value).split())
    return f"{text[:60]}{'...' if len(text) > 60 else ''} ({type(value).__name__})"


def place(path: str) -> str:
    """Name a dotted path in a message; the empty one is the whole."""
    return path or "the configuration"


def join(path: str, key: str) -> str:
    """Return the dotted path of a field of what lies at `path`."""
    return f"{path}.{key}" if path else key
