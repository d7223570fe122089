"""Parts of the token mixers: exchange of slices between tokens, and a perceptron whose hidden units are experts."""

from jaxtyping import Array, Float

from unisc.dims import Tokens


def mix_tokens(x: Tokens) -> Tokens:
    """Cut each of T tokens into T slices and make new token h of everyone's slice h, in order (arXiv 2507.15551, eq. 3-4).

    A permutation of the numbers and its own inverse, so the same call reverts it. The width is a multiple of T.
    """
    num_tokens, batch, dim = x.shape
    slices = x.reshape(num_tokens, batch, num_tokens, dim // num_tokens)
    return slices.swapaxes(0, 2).reshape(num_tokens, batch, dim)


def gate_experts(hidden: Float[Array, "T B F"], gates: Float[Array, "T B G"]) -> Float[Array, "T B F"]:
    """Scale the hidden units of a perceptron by expert: G equal blocks of them, each times its gate.

    With the layers around it this is sum_j gate_j expert_j(x) for experts that split one hidden layer, at the cost of the
    dense perceptron: every expert runs and a gate of zero hides it. Gathering each expert's rows instead needs a bound on their
    number, which ReLU gates do not have, and at widths of the ladders was not faster (`benchmarks/dispatch.py`).
    """
    num_tokens, batch, dim = hidden.shape
    blocks = hidden.reshape(num_tokens, batch, gates.shape[-1], -1)
    return (blocks * gates[..., None]).reshape(num_tokens, batch, dim)
