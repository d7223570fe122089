"""A planted law: the loss is E + A / N^alpha + B / D^beta and seeded noise, so that a fit must find the exponents again."""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unisc.config import Runtime

VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Law:
    """The truth: what no model gets below, and how loss falls with parameters and examples."""

    floor: float
    A: float
    alpha: float
    B: float
    beta: float

    def loss(self, num_params: float, num_examples: float) -> float:
        """Return the loss without noise."""
        return self.floor + self.A / num_params**self.alpha + self.B / num_examples**self.beta


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """One point of the planted surface. `noise` is the standard deviation of the loss over seeds."""

    law: Law
    num_params_dense: int
    num_examples: int
    seed: int
    noise: float
    composition: str = "exposed"


def run(config: Config, runtime: Runtime) -> Mapping[str, Any]:
    """Return the planted loss under the key that a trained model's evaluation uses."""
    # One generator a point, not a seed: points that share a seed must not share their noise.
    generator = random.Random(f"{config.seed} {config.num_params_dense} {config.num_examples} {config.composition}")
    loss = config.law.loss(config.num_params_dense, config.num_examples) + generator.gauss(0.0, config.noise)
    if not math.isfinite(loss) or loss <= 0:
        raise ValueError(f"the planted loss is {loss}")
    runtime.report(1.0)
    return {
        "metrics": {"eval/exposed/log_loss": loss},
        "counts": {
            "num_params_dense": config.num_params_dense,
            "num_examples": config.num_examples,
            "train_flops": 6 * config.num_params_dense * config.num_examples,
        },
    }
