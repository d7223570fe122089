"""Where a value that is not a number came from, and whether there is one in a state."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from unisc.data.features import Batch, FeatureSpec
from unisc.train.state import TrainState


def not_finite(spec: FeatureSpec, batch: Batch) -> str | None:
    """Name the first feature, or the labels or weights of a task, of which a batch holds NaN or infinity; None if none does."""
    for name, values, columns in (
        ("feature", batch.request_numeric, [field.name for field in spec.numeric_at("request")]),
        ("feature", batch.candidate_numeric, [field.name for field in spec.numeric_at("candidate")]),
        ("labels of task", batch.labels, spec.tasks),
        ("weights of task", batch.weights, spec.tasks),
    ):
        for column, value in zip(columns, np.asarray(values).T, strict=True):
            if not np.isfinite(value).all():
                return f"{name} {column}"
    return None


@jax.jit
def all_finite(state: TrainState) -> Bool[Array, ""]:
    """Say whether every real number of a state is finite."""
    real = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in real]))
