"""Linear maps whose learning rate need not change with width.

Under a normalised optimiser (Adam, Adagrad, RMSProp) each entry of a kernel moves by about the learning rate, so a layer's
output moves by learning rate x fan-in: the best rate falls as a network widens. As in the maximal-update parametrisation
(arXiv 2203.03466, table 8), a kernel here is stored large and used times `BASE_FAN_IN / fan_in`: the map at initialisation is
the usual one of variance 1/fan-in, its effective learning rate is that of Adam at fan-in 32, and one rate serves a ladder.
"""

import math
from collections.abc import Sequence

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

BASE_FAN_IN = 32
"""Fan-in at which the learning rate means what it means for a plain layer."""

LEAK = 0.1
"""Slope of the activation below zero."""

RELU_GAIN = math.sqrt(2.0 / (1.0 + LEAK**2))
"""Undoes what the activation takes off the mean square."""


def normal(rngs: nnx.Rngs, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Draw standard normals on the host, where a new shape costs no compilation (a model has about forty).

    Under a trace (`nnx.eval_shape`, `jax.jit`) the key has no value, and the device draws from it: other numbers, same law.
    """
    key = rngs.params()
    if isinstance(key, jax.core.Tracer):
        return jax.random.normal(key, shape, jnp.float32)
    generator = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    return jnp.asarray(generator.standard_normal(shape, np.float32))


def kernel_init(rngs: nnx.Rngs, shape: tuple[int, ...], *, fan_in: int, gain: float = 1.0) -> nnx.Param:
    """Draw a kernel that, used times BASE_FAN_IN / fan_in, has standard deviation gain / sqrt(fan_in)."""
    return nnx.Param(normal(rngs, shape) * (gain * math.sqrt(fan_in) / BASE_FAN_IN))


def bias_init(shape: tuple[int, ...]) -> nnx.Param:
    """Return a zero bias."""
    return nnx.Param(jnp.zeros(shape, jnp.float32))


def start_bias(bias: nnx.Param | None, values: Sequence[float]) -> None:
    """Set a bias to these values, one an output."""
    if bias is None or bias.shape[-1] != len(values):
        raise ValueError(f"bias of shape {None if bias is None else bias.shape} cannot start at {len(values)} values")
    bias[...] = jnp.broadcast_to(jnp.array(values, jnp.float32), bias.shape)


def product(x: Float[Array, "*batch D"], kernel: Float[Array, "D F"]) -> Float[Array, "*batch F"]:
    """Return x W over the last axis, in the way whose gradient is fast on a CPU.

    All other axes are made one first. Over several, the kernel's gradient would contract them all at once, for which XLA's CPU
    compiler transposes the slopes in memory: the forward and backward pass of layers takes 1.15 (width 512) to 2 times as long
    (width 64; `benchmarks/products.py`). And the kernel's gradient is written in the kernel's order of axes. Autodiff writes
    its transpose, which several devices sum up as it is: the optimiser then reads it against its order in memory, a fifth of a
    decoder's training step at width 512 (`benchmarks/decoder_step.py`).
    """
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    return _rows_product(rows, kernel).reshape(*x.shape[:-1], kernel.shape[-1])


@jax.custom_vjp
def _rows_product(rows: Array, kernel: Array) -> Array:
    return rows @ kernel


def _forward(rows: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return rows @ kernel, (rows, kernel)


def _backward(saved: tuple[Array, Array], slopes: Array) -> tuple[Array, Array]:
    rows, kernel = saved
    return jnp.einsum("nf,df->nd", slopes, kernel), jnp.einsum("nd,nf->df", rows, slopes)


_rows_product.defvjp(_forward, _backward)


class Linear(nnx.Module):
    """y = x W + b."""

    def __init__(self, dim_in: int, dim_out: int, *, bias: bool = True, gain: float = 1.0, rngs: nnx.Rngs):
        self.multiplier = BASE_FAN_IN / dim_in
        self.kernel = kernel_init(rngs, (dim_in, dim_out), fan_in=dim_in, gain=gain)
        self.bias = bias_init((dim_out,)) if bias else None

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch F"]:
        """Map the last axis."""
        y = product(x, self.kernel[...]) * self.multiplier
        return y if self.bias is None else y + self.bias[...]


class TypedLinear(nnx.Module):
    """One linear map a type: y[t] = x[t] W[t] + b[t], for token types or experts."""

    def __init__(self, num_types: int, dim_in: int, dim_out: int, *, bias: bool = True, gain: float = 1.0, rngs: nnx.Rngs):
        self.multiplier = BASE_FAN_IN / dim_in
        self.kernel = kernel_init(rngs, (num_types, dim_in, dim_out), fan_in=dim_in, gain=gain)
        self.bias = bias_init((num_types, 1, dim_out)) if bias else None

    def __call__(self, x: Float[Array, "T B D"]) -> Float[Array, "T B F"]:
        """Map each type's rows by its own kernel."""
        y = jnp.einsum("tbd,tdf->tbf", x, self.kernel[...]) * self.multiplier
        return y if self.bias is None else y + self.bias[...]

    def of_types(self, x: Float[Array, "t B D"], types: Sequence[int]) -> Float[Array, "t B F"]:
        """Map the rows of some types only; `types` names them in the order of `x`."""
        chosen = np.array(types, np.int32)
        y = jnp.einsum("tbd,tdf->tbf", x, self.kernel[...][chosen]) * self.multiplier
        return y if self.bias is None else y + self.bias[...][chosen]

    def shared_input(self, x: Float[Array, "B D"]) -> Float[Array, "T B F"]:
        """Map the same rows by every type's kernel."""
        y = jnp.einsum("bd,tdf->tbf", x, self.kernel[...]) * self.multiplier
        return y if self.bias is None else y + self.bias[...]
