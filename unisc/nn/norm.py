"""Normalisation without a learned gain: the linear map that follows each use could absorb it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def rms_norm(x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
    """Scale the last axis to unit mean square; a zero vector stays zero."""
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)


def layer_norm(x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
    """Shift the last axis to mean zero and scale it to unit variance; a constant vector becomes zero."""
    return rms_norm(x - jnp.mean(x, axis=-1, keepdims=True))
