"""Reading the embedding rows of a batch, and pooling histories of them."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from unisc.dims import HistoryMask, RequestIndex, Rows


def lookup(rows: Rows, ids: Int[Array, "*batch M"]) -> Float[Array, "*batch M E"]:
    """Return the rows of the fields; `ids` index `rows` and are in bounds by the batch's construction."""
    return rows.at[ids].get(mode="promise_in_bounds", wrap_negative_indices=False)


def to_candidates(x: Shaped[Array, "R *rest"], request_index: RequestIndex) -> Shaped[Array, "B *rest"]:
    """Give every candidate what its request holds."""
    return x.at[request_index].get(mode="promise_in_bounds", wrap_negative_indices=False)


def concat_fields(x: Float[Array, "*batch M E"]) -> Float[Array, "*batch M*E"]:
    """Lay the fields of an entry end to end."""
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])


def masked_mean(x: Float[Array, "R S D"], mask: HistoryMask) -> Float[Array, "R D"]:
    """Average the real entries; zero where there is none."""
    weights = mask.astype(x.dtype)
    count = jnp.maximum(jnp.sum(weights, axis=-1, keepdims=True), 1.0)
    return jnp.einsum("rs,rsd->rd", weights, x) / count
