"""What every sweep plans by: a preset by its name, and a run's sizes and predicted cost, counted."""

from collections.abc import Mapping
from typing import Any, TypeVar

from unisc.data.features import FeatureSpec
from unisc.errors import InputError
from unisc.models import zoo
from unisc.sweep.budget import cost_units

Preset = TypeVar("Preset")


def preset_named(presets: Mapping[str, Preset], name: str) -> Preset:
    """Return a preset by its name. Raises InputError where there is none of that name."""
    if name not in presets:
        raise InputError(f"unknown preset {name!r}; the presets are: {', '.join(presets)}")
    return presets[name]


def counted(model: Any, spec: FeatureSpec, *, num_examples: int, num_requests: int, num_epochs: int = 1) -> dict[str, Any]:
    """Return what `Run.of` is told of a ranker's run besides its name: dense parameters, examples, FLOPs of training, cost."""
    ranker = zoo.ranker_of(model)
    flops = ranker.flops_per_example(model, spec).train(num_candidates=num_examples, num_requests=num_requests)
    work = float(num_epochs * flops)
    return {
        "cost": cost_units(work),
        "num_params": ranker.num_params(model, spec).dense,
        "num_examples": num_epochs * num_examples,
        "train_flops": work,
    }
