"""How numbers are written on pages and axes."""

from collections.abc import Iterator, Mapping
from typing import Any


def number(value: float | None, digits: int = 3) -> str:
    """Write a whole number with its thousands, another to some significant digits; None as n/a."""
    if value is None or value != value:
        return "n/a"
    if value == 0 or isinstance(value, int) or (value == round(value) and abs(value) >= 10 ** (digits - 1)):
        return f"{round(value):,}".replace("-", "−")
    return (f"{value:.{digits}g}" if abs(value) >= 1e-4 else f"{value:.1e}").replace("-", "−")


def short(value: float) -> str:
    """Write a count shortly: 3.2k, 45k, 1.5M, and 3e19 where there is no common letter."""
    if abs(value) >= 1e15:
        return f"{value:.3g}".replace("e+", "e")
    for size, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def percent(share: float | None) -> str:
    """Write a share in per cent, to a tenth where that says something; None as n/a."""
    if share is None:
        return "n/a"
    return f"{share:.0%}" if share in (0, 1) else f"{share:.1%}" if 0.001 <= share <= 0.999 else f"{share:.2%}"


def duration(seconds: float | None) -> str:
    """Write seconds in the largest unit that leaves at least one of it."""
    if seconds is None:
        return "n/a"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Name every leaf of nested numbers and words by its path, as rows of a table."""
    for name, value in values.items():
        path = f"{prefix}{name}".replace("_", " ")
        if isinstance(value, Mapping):
            yield from flatten(value, f"{path}, ")
        elif isinstance(value, list | tuple):
            yield path, ", ".join(str(v) for v in value)
        else:
            yield path, number(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
