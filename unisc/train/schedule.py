"""The schedule of rates: a linear rise over the first steps, then a fall to a share of the rate."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from unisc.errors import InputError

Decay = Literal["cosine", "linear", "constant"]


def rate_at(step: int, num_steps: int, *, warmup_frac: float, final_frac: float, decay: Decay) -> float:
    """Return the factor of the rates for a step counted from 0."""
    warmup = math.ceil(warmup_frac * num_steps)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(num_steps - warmup, 1)
    shape = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}[decay]
    return final_frac + (1 - final_frac) * shape


def check_settings(config: Any, *, shares: Iterable[str], at_least: Mapping[str, float]) -> None:
    """Check that fields are shares, or finite and not below a bound. Raises InputError naming the first that is not."""
    for name in shares:
        if not 0 <= getattr(config, name) <= 1:
            raise InputError(f"{name} {getattr(config, name)}: give a number from 0 to 1")
    for name, least in at_least.items():
        if not least <= getattr(config, name) < math.inf:
            raise InputError(f"{name} {getattr(config, name)}: give a number of at least {least}")
