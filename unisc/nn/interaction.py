"""Explicit feature interactions."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def num_pairs(num_fields: int) -> int:
    """Return how many unordered pairs of different fields there are."""
    return num_fields * (num_fields - 1) // 2


def pairwise_dots(x: Float[Array, "B M E"]) -> Float[Array, "B pairs"]:
    """Return the inner products of all pairs of different fields (DLRM, arXiv 1906.00091, section 2.1)."""
    products = jnp.einsum("bme,bne->bmn", x, x)
    first, second = np.triu_indices(x.shape[1], k=1)
    return products[:, first, second]
