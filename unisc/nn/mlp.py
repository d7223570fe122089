"""Two-layer perceptrons: plain, one a type, and over features that are partly per request and partly per candidate.

Leaky ReLU throughout: on a CPU it costs half of what SiLU or GELU cost at these widths, and unlike ReLU it cannot die, which
the narrowest models of a ladder did at some seeds and rates.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from unisc.dims import RequestIndex, Tokens
from unisc.nn.embedding import to_candidates
from unisc.nn.linear import BASE_FAN_IN, LEAK, RELU_GAIN, Linear, TypedLinear, bias_init, kernel_init, normal


def activate(x: Float[Array, "*batch F"]) -> Float[Array, "*batch F"]:
    """Apply the leaky ReLU, element by element."""
    return jax.nn.leaky_relu(x, LEAK)


class MLP(nnx.Module):
    """activate(x W1 + b) W2; no outer bias, since what follows is normalised or has its own."""

    def __init__(self, dim_in: int, dim_hidden: int, dim_out: int, *, gain: float = 1.0, rngs: nnx.Rngs):
        self.up = Linear(dim_in, dim_hidden, rngs=rngs)
        self.down = Linear(dim_hidden, dim_out, bias=False, gain=RELU_GAIN * gain, rngs=rngs)

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch F"]:
        """Map the last axis."""
        return self.down(activate(self.up(x)))


class TypedMLP(nnx.Module):
    """One MLP a token type."""

    def __init__(self, num_types: int, dim: int, dim_hidden: int, *, gain: float = 1.0, rngs: nnx.Rngs):
        self.up = TypedLinear(num_types, dim, dim_hidden, rngs=rngs)
        self.down = TypedLinear(num_types, dim_hidden, dim, bias=False, gain=RELU_GAIN * gain, rngs=rngs)

    def __call__(self, x: Tokens) -> Tokens:
        """Map each type's rows by its own MLP."""
        return self.down(activate(self.up(x)))

    def of_types(self, x: Float[Array, "t B D"], types: Sequence[int]) -> Float[Array, "t B D"]:
        """Map the rows of some types only; `types` names them in the order of `x`."""
        return self.down.of_types(activate(self.up.of_types(x, types)), types)


class Experts(nnx.Module):
    """N expert MLPs, run densely: every expert on every row, then the own one by a mask.

    Sorting rows by expert and `jax.lax.ragged_dot` took 0.9 to 1.4 times as long at widths of the ladders and 0.9 times at 512,
    since XLA runs that on a CPU as the same dense products (`benchmarks/dispatch.py`).
    """

    def __init__(
        self,
        num_experts: int,
        dim_in: int,
        dim_hidden: int,
        dim_out: int,
        *,
        outer_bias: bool = False,
        gain: float = 1.0,
        rngs: nnx.Rngs,
    ):
        self.up = TypedLinear(num_experts, dim_in, dim_hidden, rngs=rngs)
        self.down = TypedLinear(num_experts, dim_hidden, dim_out, bias=outer_bias, gain=RELU_GAIN * gain, rngs=rngs)

    def __call__(self, x: Float[Array, "B D"]) -> Float[Array, "G B F"]:
        """Return every expert's output for every row."""
        return self.down(activate(self.up.shared_input(x)))

    def own(self, x: Float[Array, "B D"], one_hot: Float[Array, "G B 1"]) -> Float[Array, "B F"]:
        """Return for each row the output of its own expert; the others get a gradient of exactly zero from it."""
        return jnp.sum(self(x) * one_hot, axis=0)


class JointLinear(nnx.Module):
    """A linear map of [request features, candidate features] whose request part is computed once a request.

    With no feature at all it is its bias; `dim_request` or `dim_candidate` may be 0.
    """

    def __init__(self, dim_request: int, dim_candidate: int, dim_out: int, *, rngs: nnx.Rngs):
        fan_in = dim_request + dim_candidate
        self.multiplier = BASE_FAN_IN / max(fan_in, 1)
        self.request = kernel_init(rngs, (dim_request, dim_out), fan_in=fan_in) if dim_request else None
        self.candidate = kernel_init(rngs, (dim_candidate, dim_out), fan_in=fan_in) if dim_candidate else None
        self.bias = bias_init((dim_out,))

    def per_request(self, x: Float[Array, "R Dr"]) -> Float[Array, "R F"]:
        """Return the request's part, bias included."""
        y = jnp.broadcast_to(self.bias[...], (x.shape[0], self.bias.shape[0]))
        return y if self.request is None else y + jnp.einsum("rd,df->rf", x, self.request[...]) * self.multiplier

    def __call__(
        self, request: Float[Array, "R Dr"], candidate: Float[Array, "B Dc"], request_index: RequestIndex
    ) -> Float[Array, "B F"]:
        """Map each candidate's joint features; the request's part is gathered, not recomputed."""
        y = to_candidates(self.per_request(request), request_index)
        return y if self.candidate is None else y + jnp.einsum("bd,df->bf", candidate, self.candidate[...]) * self.multiplier


class JointMLP(nnx.Module):
    """An MLP of [request features, candidate features]; once a request where there is no candidate feature.

    Without any feature it is a learned vector, so that a group a data set lacks still has its token.
    """

    def __init__(self, dim_request: int, dim_candidate: int, dim_hidden: int, dim_out: int, *, rngs: nnx.Rngs):
        self.per_candidate = dim_candidate > 0
        if dim_request + dim_candidate:
            self.up = JointLinear(dim_request, dim_candidate, dim_hidden, rngs=rngs)
            self.down = Linear(dim_hidden, dim_out, gain=RELU_GAIN, rngs=rngs)
            self.constant = None
        else:
            self.up = self.down = None
            self.constant = nnx.Param(normal(rngs, (dim_out,)))

    def __call__(
        self, request: Float[Array, "R Dr"], candidate: Float[Array, "B Dc"], request_index: RequestIndex
    ) -> Float[Array, "B F"]:
        """Map each candidate's joint features."""
        if self.up is None or self.down is None:
            assert self.constant is not None
            return jnp.broadcast_to(self.constant[...], (candidate.shape[0], self.constant.shape[0]))
        if self.per_candidate:
            return self.down(activate(self.up(request, candidate, request_index)))
        return to_candidates(self.per_request(request), request_index)

    def per_request(self, request: Float[Array, "R Dr"]) -> Float[Array, "R F"]:
        """Map each request's features, where there is no candidate feature."""
        if self.up is None or self.down is None:
            assert self.constant is not None
            return jnp.broadcast_to(self.constant[...], (request.shape[0], self.constant.shape[0]))
        return self.down(activate(self.up.per_request(request)))
