"""The schedule of rates: a linear rise over the first steps, then a fall to a share of the rate."""

import math
from typing import Literal

Decay = Literal["cosine", "linear", "constant"]


def rate_at(step: int, num_steps: int, *, warmup_frac: float, final_frac: float, decay: Decay) -> float:
    """Return the factor of the rates for a step counted from 0."""
    warmup = math.ceil(warmup_frac * num_steps)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(num_steps - warmup, 1)
    shape = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}[decay]
    return final_frac + (1 - final_frac) * shape
