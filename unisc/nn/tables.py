"""Embedding rows between the store and the model: sums of several stored rows, and values rounded to a store of bfloat16."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from unisc.dims import Rows


def compose(rows: Float[Array, "P E"], row_parts: Int[Array, "U K"] | None) -> Rows:
    """Sum the stored rows that make up each embedding (`unisc.data.hashing`); a part out of range adds nothing.

    Linear: its transpose adds up, for each stored row, the gradients of all embeddings that use it.
    """
    if row_parts is None:
        return rows
    return jnp.sum(rows.at[row_parts].get(mode="fill", fill_value=0, wrap_negative_indices=False), axis=1)


def to_store(values: Float[Array, "U E"], dtype: jnp.dtype, salt: Int[Array, ""] | int) -> Float[Array, "U E"]:
    """Round values to the type of a table, to bfloat16 up or down at random by where they lie between its neighbours.

    Rounding to the nearest would lose every update below 1/256 of a value, which is most of them; like this each is kept on
    average (arXiv 1502.02551, section 3). `salt` makes the draws, the step's number, say; a value that bfloat16 holds exactly
    stays as it is. Draws are a hash of salt and place: a counter-based generator would cost as much as the update.
    """
    if dtype != jnp.bfloat16:
        return values.astype(dtype)
    bits = jax.lax.bitcast_convert_type(values, jnp.uint32)
    places = jnp.arange(values.size, dtype=jnp.uint32).reshape(values.shape)
    draws = _mix(places ^ _mix(jnp.asarray(salt).astype(jnp.uint32))) >> 16
    rounded = jax.lax.bitcast_convert_type((bits + draws) & jnp.uint32(0xFFFF0000), jnp.float32)
    return jnp.where(jnp.isfinite(values), rounded, values).astype(jnp.bfloat16)


def _mix(x: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """Hash 32 bits to 32 bits by the finaliser of MurmurHash3."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
