"""What every model's configuration checks of itself, by the declared types of its fields."""

import dataclasses
import math
import typing
from collections.abc import Container, Mapping
from typing import Any

from unisc.errors import InputError


def check_fields(config: Any, *, least: Mapping[str, int] | None = None, may_be_empty: Container[str] = ()) -> None:
    """Check every field of a configuration against its type; text is left alone.

    An int is a whole number of at least 1, or of `least[name]`; a tuple holds such numbers, or values of its Literal, at least
    one unless its name is in `may_be_empty`; a float is at least 0; a Literal is one of its values.

    Raises:
      InputError: a field is anything else.
    """
    bounds = least or {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.type is int:
            _check_whole(field.name, value, bounds.get(field.name, 1))
        elif typing.get_origin(field.type) is tuple:
            if not value and field.name not in may_be_empty:
                raise InputError(f"{field.name}: empty; give at least one width")
            of = typing.get_args(field.type)[0]
            for part in value:
                if typing.get_origin(of) is typing.Literal:
                    _check_one_of(field.name, part, of)
                else:
                    _check_whole(field.name, part, bounds.get(field.name, 1))
        elif field.type is float and (not isinstance(value, int | float) or not 0 <= value < math.inf):
            raise InputError(f"{field.name}: {value!r} is not a number of at least 0; give one")
        elif field.type is bool and not isinstance(value, bool):
            raise InputError(f"{field.name}: {value!r} is not true or false; give one")
        elif typing.get_origin(field.type) is typing.Literal:
            _check_one_of(field.name, value, field.type)


def check_multiples(config: Any, **parts: str) -> None:
    """Check that each named width divides into the number that another field gives: `dim="num_heads"`.

    Raises:
      InputError: one does not.
    """
    for name, by in parts.items():
        value, count = getattr(config, name), getattr(config, by)
        if value % count:
            raise InputError(f"{name}: {value} does not divide into {by}={count}; give a multiple")


def _check_one_of(name: str, value: Any, of: Any) -> None:
    if value not in typing.get_args(of):
        raise InputError(f"{name}: unknown {value!r}; give one of {', '.join(typing.get_args(of))}")


def _check_whole(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{name}: {value!r} is not a whole number of at least {least}; give one")
