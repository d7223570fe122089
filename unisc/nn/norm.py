"""Normalisation without a learned gain or bias: the linear map that follows each use could absorb them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def rms_norm(x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
    """Scale the last axis to unit mean square; a zero vector stays zero. Squares are summed in float32."""
    wide = x.astype(jnp.float32)
    return (wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + 1e-6)).astype(x.dtype)


def layer_norm(x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
    """Shift and scale the last axis to zero mean and unit variance (arXiv 1607.06450), without gain or bias, in float32."""
    wide = x.astype(jnp.float32)
    centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
    return (centred * jax.lax.rsqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + 1e-6)).astype(x.dtype)


def unit_norm(x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
    """Scale the last axis to length 1; a zero vector stays zero, with a finite slope. Squares are summed in float32."""
    wide = x.astype(jnp.float32)
    return (wide * jax.lax.rsqrt(jnp.maximum(jnp.sum(wide * wide, axis=-1, keepdims=True), 1e-12))).astype(x.dtype)
