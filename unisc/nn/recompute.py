"""Compute a layer again in the backward pass instead of keeping what it computed (rematerialisation, arXiv 1604.06174).

`jax.checkpoint` asks for the same by an optimisation barrier, which XLA's CPU compiler drops before it orders the operations:
all layers are then computed again early, and memory stays as high as it was (measured: BENCHMARKS.md). Here the second
computation waits for the gradient by way of its data, which every compiler must respect.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from unisc.errors import InputError

_wanted: ContextVar[bool] = ContextVar("recompute", default=False)


@contextmanager
def recomputing(wanted: bool) -> Iterator[None]:
    """Say whether layers called by `recompute` in this block are to be recomputed; outside of any they are not."""
    token = _wanted.set(wanted)
    try:
        yield
    finally:
        _wanted.reset(token)


def recompute(call: Callable[..., Any], layer: nnx.Module, *arrays: Any) -> Any:
    """Return call(layer, *arrays), trees of arrays; where that is wanted, only these are kept for the backward pass.

    `call` reads no other values that a gradient is taken by, and changes no variable of the layer.
    """
    if not _wanted.get():
        return call(layer, *arrays)
    graphdef, state = nnx.split(layer)

    def run(state: Any, arrays: Any) -> Any:
        return call(nnx.merge(graphdef, state), *arrays)

    def forward(state: Any, arrays: Any) -> Any:
        return run(state, arrays), (state, arrays)

    def backward(saved: Any, slopes: Any) -> Any:
        state, arrays = saved
        # Zero, but XLA cannot know: a slope might not be finite. (If one is not, the step is lost anyway.)
        first = [x.reshape(-1)[0].astype(jnp.float32) for x in jax.tree.leaves(slopes) if _is_float(x) and x.size]
        zero = 0.0 * jnp.sum(jnp.stack(first))
        after = jax.tree.map(lambda x: x + zero.astype(x.dtype) if _is_float(x) else x, arrays)
        return jax.vjp(run, state, after)[1](slopes)

    once = jax.custom_vjp(run)
    once.defvjp(forward, backward)
    return once(state, arrays)


def encode_in_chunks(encode: Callable[[Any], Any], inputs: Any, num_chunks: int) -> Any:
    """Return encode(inputs), trees of arrays whose first axis are rows, worked out for one chunk of the rows after another.

    The backward pass encodes each chunk again: memory holds the representations of all rows and the activations of one chunk,
    so that a contrastive batch may be as large as its representations allow. That is gradient caching (arXiv 2101.06983), and
    exact, where no row of `encode` depends on another. A loop's body cannot be moved out of it, so that here, unlike in
    `recompute`, `jax.checkpoint` holds its promise on every device. A chunk is every `num_chunks`-th row: of rows that are
    shared out among devices in order, each device has an equal share of every chunk.

    Raises:
      InputError: the rows cannot be shared out equally.
    """
    num_rows = len(jax.tree.leaves(inputs)[0])
    if num_chunks < 1 or num_rows % num_chunks:
        raise InputError(f"num_chunks {num_chunks}: {num_rows} rows cannot be shared out equally; give a divisor")
    if num_chunks == 1:
        return encode(inputs)
    chunks = jax.tree.map(lambda x: jnp.swapaxes(x.reshape(-1, num_chunks, *x.shape[1:]), 0, 1), inputs)
    encoded = jax.lax.map(jax.checkpoint(encode), chunks)
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:]), encoded)


def _is_float(x: Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)
