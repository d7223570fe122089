"""DCN-V2: explicit crosses of all features, beside or below an MLP (arXiv 2008.13535).

One cross layer (section 3.2) adds to x_l the element-wise product of the input with an affine map of x_l, so that L layers
reach every product of up to L + 1 features:

    full        x_{l+1} = x_0 * (W_l x_l + b_l) + x_l
    low_rank    W_l = U_l V_l^T                                                         (section 3.3, equation 2)
    mixture     x_{l+1} = sum_i G_i(x_l) [x_0 * (U_li tanh(C_li tanh(V_li^T x_l)) + b_l)] + x_l     (equations 3 and 4)

`stacked` feeds x_L to the MLP; `parallel` gives the MLP x_0 and lays both results side by side before the logits (figure 1).
Here the gate G is a softmax of one linear map, one of the choices the paper leaves open; since it sums to 1, b_l is added once.
The history enters as its mean, and the MLP has the leaky ReLU of all our models where the paper has ReLU. Of the maps of x_0,
the request's part is computed once a request.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from unisc.data.features import Batch, FeatureSpec
from unisc.dims import Logits, RequestIndex, Rows
from unisc.models.checks import check_fields
from unisc.models.counts import FlopCount, ParamCount
from unisc.models.inputs import flat_inputs, flat_widths
from unisc.nn.embedding import concat_fields, lookup, masked_mean, to_candidates
from unisc.nn.linear import BASE_FAN_IN, RELU_GAIN, Linear, bias_init, kernel_init, start_bias
from unisc.nn.mlp import activate

Kind = Literal["full", "low_rank", "mixture"]
Structure = Literal["stacked", "parallel"]
KINDS: tuple[Kind, ...] = ("full", "low_rank", "mixture")
STRUCTURES: tuple[Structure, ...] = ("stacked", "parallel")

HEAD_GAIN = 0.1  # logits start near their bias


@dataclass(frozen=True, kw_only=True, slots=True)
class DCNConfig:
    """Kind and number of cross layers, and the MLP; `rank` is not read by "full", `num_experts` by "mixture" alone."""

    embed_dim: int
    hidden_dims: tuple[int, ...]
    kind: Kind = "low_rank"
    structure: Structure = "stacked"
    num_cross_layers: int = 2
    rank: int = 64
    num_experts: int = 4

    def __post_init__(self) -> None:
        check_fields(self)


class Joint(NamedTuple):
    """A candidate's input x_0 with the part its request holds kept once."""

    request: Float[Array, "R Dr"]
    candidate: Float[Array, "B Dc"]
    request_index: RequestIndex

    def whole(self) -> Float[Array, "B D"]:
        """Return x_0 of every candidate."""
        return jnp.concatenate([to_candidates(self.request, self.request_index), self.candidate], axis=-1)


def mapped(layer: Linear, x: Joint | Float[Array, "B D"]) -> Float[Array, "B F"]:
    """Apply a linear layer; to x_0 it is applied in two parts, the request's once a request."""
    if not isinstance(x, Joint):
        return layer(x)
    kernel, width = layer.kernel[...], x.request.shape[1]
    by_request = jnp.einsum("rd,df->rf", x.request, kernel[:width])
    y = to_candidates(by_request, x.request_index) + jnp.einsum("bd,df->bf", x.candidate, kernel[width:])
    y = y * layer.multiplier
    return y if layer.bias is None else y + layer.bias[...]


class FullCross(nnx.Module):
    """W x + b."""

    def __init__(self, config: DCNConfig, dim: int, *, rngs: nnx.Rngs):
        self.weight = Linear(dim, dim, rngs=rngs)

    def __call__(self, x: Joint | Float[Array, "B D"]) -> Float[Array, "B D"]:
        return mapped(self.weight, x)


class LowRankCross(nnx.Module):
    """U V^T x + b."""

    def __init__(self, config: DCNConfig, dim: int, *, rngs: nnx.Rngs):
        self.down = Linear(dim, config.rank, bias=False, rngs=rngs)
        self.up = Linear(config.rank, dim, rngs=rngs)

    def __call__(self, x: Joint | Float[Array, "B D"]) -> Float[Array, "B D"]:
        return self.up(mapped(self.down, x))


class MixtureCross(nnx.Module):
    """sum_i G_i(x) U_i tanh(C_i tanh(V_i^T x)) + b; gated before U, the experts' outputs add up in one matrix product."""

    def __init__(self, config: DCNConfig, dim: int, *, rngs: nnx.Rngs):
        self.num_experts, self.rank = config.num_experts, config.rank
        self.gate = Linear(dim, self.num_experts, bias=False, rngs=rngs)
        self.down = Linear(dim, self.num_experts * self.rank, bias=False, rngs=rngs)
        self.multiplier = BASE_FAN_IN / self.rank
        self.middle = kernel_init(rngs, (self.num_experts, self.rank, self.rank), fan_in=self.rank)
        self.up = kernel_init(rngs, (self.num_experts, self.rank, dim), fan_in=self.rank)
        self.bias = bias_init((dim,))

    def __call__(self, x: Joint | Float[Array, "B D"]) -> Float[Array, "B D"]:
        gate = jax.nn.softmax(mapped(self.gate, x), axis=-1)
        h = jnp.tanh(mapped(self.down, x)).reshape(-1, self.num_experts, self.rank)
        h = jnp.tanh(jnp.einsum("bgk,gkj->bgj", h, self.middle[...]) * self.multiplier) * gate[..., None]
        up = self.up[...].reshape(self.num_experts * self.rank, -1)
        return jnp.einsum("bk,kd->bd", h.reshape(h.shape[0], -1), up) * self.multiplier + self.bias[...]


CROSSES = {"full": FullCross, "low_rank": LowRankCross, "mixture": MixtureCross}


class DCN(nnx.Module):
    """The ranker: `model(rows, batch)` gives one logit a candidate and task; `bias_init` as in HHSFT."""

    def __init__(self, config: DCNConfig, spec: FeatureSpec, *, rngs: nnx.Rngs, bias_init: Sequence[float] = ()):
        self.config, self.spec = config, spec
        dim, hidden = sum(input_widths(config, spec)), config.hidden_dims
        self.crosses = nnx.List([CROSSES[config.kind](config, dim, rngs=rngs) for _ in range(config.num_cross_layers)])
        self.hidden = nnx.List(
            [
                Linear(a, b, gain=RELU_GAIN if i else 1.0, rngs=rngs)
                for i, (a, b) in enumerate(itertools.pairwise((dim, *hidden)))
            ]
        )
        self.head = Linear(head_width(config, spec), len(spec.tasks), gain=RELU_GAIN * HEAD_GAIN, rngs=rngs)
        if bias_init:
            start_bias(self.head.bias, bias_init)

    def __call__(self, rows: Rows, batch: Batch) -> Logits:
        """Score every candidate; `rows` are the embeddings of `batch.unique_rows`."""
        joint = self.inputs(rows, batch)
        x0 = x = joint.whole()
        for i, cross in enumerate(self.crosses):
            x = x0 * cross(x if i else joint) + x
        parallel = self.config.structure == "parallel"
        deep = activate(mapped(self.hidden[0], joint if parallel else x))
        for layer in self.hidden[1:]:
            deep = activate(layer(deep))
        return self.head(jnp.concatenate([x, deep], axis=-1) if parallel else deep)

    def inputs(self, rows: Rows, batch: Batch) -> Joint:
        """Return x_0: the request's features and mean-pooled history, then the candidate's."""
        request, candidate = flat_inputs(rows, batch)
        if self.spec.at("history"):
            history = concat_fields(lookup(rows, batch.history_ids))
            request = jnp.concatenate([request, masked_mean(history, batch.history_mask)], axis=-1)
        return Joint(request, candidate, batch.request_index)


def input_widths(config: DCNConfig, spec: FeatureSpec) -> tuple[int, int]:
    """Return the widths of a request's part of x_0 (pooled history included) and of a candidate's."""
    request, candidate = flat_widths(spec, config.embed_dim)
    return request + len(spec.at("history")) * config.embed_dim, candidate


def head_width(config: DCNConfig, spec: FeatureSpec) -> int:
    """Return how many values the logits are read from."""
    return config.hidden_dims[-1] + (sum(input_widths(config, spec)) if config.structure == "parallel" else 0)


def cross_widths(config: DCNConfig, dim: int) -> tuple[int, int]:
    """Return how many values a cross layer maps its input to, and the multiply-adds and parameters that follow, bias apart."""
    match config.kind:
        case "full":
            return dim, 0
        case "low_rank":
            return config.rank, config.rank * dim
        case _:
            experts, rank = config.num_experts, config.rank
            return experts * (rank + 1), experts * rank * (rank + dim)


def num_params(config: DCNConfig, spec: FeatureSpec) -> ParamCount:
    """Count parameters in closed form; every dense one is active."""
    dim = sum(input_widths(config, spec))
    out, rest = cross_widths(config, dim)
    deep = sum((a + 1) * b for a, b in itertools.pairwise((dim, *config.hidden_dims)))
    head = (head_width(config, spec) + 1) * len(spec.tasks)
    dense = config.num_cross_layers * (dim * out + rest + dim) + deep + head
    return ParamCount(embedding=spec.num_rows * config.embed_dim, dense=dense, active=dense)


def flops_per_example(config: DCNConfig, spec: FeatureSpec) -> FlopCount:
    """Count forward FLOPs a candidate and a request in closed form."""
    in_request, in_candidate = input_widths(config, spec)
    dim = in_request + in_candidate
    out, rest = cross_widths(config, dim)
    on_input = out + (config.hidden_dims[0] if config.structure == "parallel" else 0)
    on_crossed = (config.num_cross_layers - 1) * out + (config.hidden_dims[0] if config.structure == "stacked" else 0)
    deep = sum(a * b for a, b in itertools.pairwise(config.hidden_dims)) + head_width(config, spec) * len(spec.tasks)
    candidate = 2 * (in_candidate * on_input + dim * on_crossed + config.num_cross_layers * rest + deep)
    pooling = spec.history_len * len(spec.at("history")) * config.embed_dim
    return FlopCount(candidate=candidate, candidate_active=candidate, request=2 * (in_request * on_input + pooling))


RUNGS = {"xxs": 8, "xs": 24, "s": 72, "m": 136, "l": 208, "xl": 376, "xxl": 624}
"""First hidden width at each size; each further layer halves it. The experts of a cross layer share a quarter of it as rank."""


def ladder(
    *, embed_dim: int, kind: Kind = "low_rank", structure: Structure = "stacked", rungs: Mapping[str, int] = RUNGS
) -> dict[str, DCNConfig]:
    """Return the sizes by name, smallest first, of about HHSFT's dense parameters.

    A full cross has the square of the input's width whatever the size, so with "full" the small sizes are larger than that.
    """
    experts = 2 if kind == "mixture" else 1
    return {
        name: DCNConfig(
            embed_dim=embed_dim,
            hidden_dims=(width, width // 2, width // 4),
            kind=kind,
            structure=structure,
            rank=max(1, width // (4 * experts)),
            num_experts=experts,
        )
        for name, width in rungs.items()
    }


PUBLISHED = {
    # MLPerf's DLRM-DCNv2, crosses and top MLP, as keras-team/keras-rs states it in
    # examples/mlperf_dlrm_dcnv2/configs/models/default_model.py. Its bottom MLP makes 128 values of the 13 numerics, which a
    # specification for this configuration holds as a 27th field.
    "mlperf": DCNConfig(embed_dim=128, hidden_dims=(1024, 1024, 512, 256), num_cross_layers=3, rank=512),
}
"""Configurations whose sizes are stated in public."""
