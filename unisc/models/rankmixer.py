"""RankMixer: parameter-free token mixing and one feed-forward network a token (arXiv 2507.15551, section 3).

    features -> T chunks -> tokens X;  L times:  S = LN(Mix(X) + X),  X = LN(PFFN(S) + S);  mean over tokens -> heads

Mix cuts each token into T slices and makes token h of everyone's slice h. PFFN is D -> `ffn_dim` -> D with GELU, its own a
token: about 2 L T D ffn_dim parameters, the paper's 2 k L T D^2 with ffn_dim = k D, and twice that many FLOPs a candidate.

With `num_experts` > 1 each token's hidden layer is split into that many experts (section 3.4) and v = sum_j G_j e_j(s) with
G = ReLU(router(s)); an l1 penalty closes gates. Two routers: one for training, not penalised, keeps experts fed; one for
inference, penalised, decides what is served. The paper says that both are updated in training but not how the second sees the
task; with the first alone in the forward pass only the penalty would move it, and its gates would all close. Here every
second candidate of a training batch goes through the inference router and the others through the training router: both get
the gradient of the task, the experts that inference closes still learn, and a step costs no more than the dense model's.

Where we deviate: chunks (see `unisc.models.chunks`); LN without gain and bias, experts without outer bias (one a token
instead); the penalty's strength follows the share of open gates, so that `active_experts` of them are open on average, as in
ReMoE (arXiv 2412.14711, section 3.3).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from unisc.data.features import Batch, FeatureSpec
from unisc.dims import Logits, Rows, Tokens
from unisc.errors import InputError
from unisc.models.checks import check_fields, check_multiples
from unisc.models.chunks import ChunkTokens, tokens_flops, tokens_params
from unisc.models.counts import FlopCount, ParamCount
from unisc.nn.linear import RELU_GAIN, Linear, TypedLinear, start_bias
from unisc.nn.mixing import gate_experts, mix_tokens
from unisc.nn.norm import layer_norm
from unisc.nn.recompute import recompute

HEAD_GAIN = 0.1  # logits start near their bias

GELU_GAIN = 1.53
"""Undoes what GELU takes off the mean square of a standard normal, 0.425."""

GATE_GAIN = math.sqrt(2.0)
"""A ReLU of a standard normal has mean square 1/2."""

L1_START, L1_GROWTH, L1_RANGE = 1e-3, 1.05, (1e-5, 1.0)
"""The penalty's first strength, the factor it rises or falls by at each step, and how far, so that it is soon back."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RankMixerConfig:
    """Tokens, their width, the hidden width of a token's network (k D in the paper) and the number of blocks.

    `num_experts` 1 is the dense model; more split `ffn_dim`, of which on average `active_experts` serve a token.
    """

    embed_dim: int
    num_tokens: int
    dim: int
    ffn_dim: int
    num_layers: int = 2
    num_experts: int = 1
    active_experts: int = 1

    def __post_init__(self) -> None:
        check_fields(self, least={"num_tokens": 2})
        check_multiples(self, dim="num_tokens", ffn_dim="num_experts")
        if self.active_experts > self.num_experts:
            raise InputError(
                f"active_experts: {self.active_experts} is more than num_experts={self.num_experts}; give that or fewer"
            )


class TokenFFN(nnx.Module):
    """One two-layer network a token, or several experts a token that split its hidden layer."""

    def __init__(self, config: RankMixerConfig, *, rngs: nnx.Rngs):
        tokens, dim, experts = config.num_tokens, config.dim, config.num_experts
        sparse = experts > 1
        self.up = TypedLinear(tokens, dim, config.ffn_dim, rngs=rngs)
        self.down = TypedLinear(tokens, config.ffn_dim, dim, gain=GELU_GAIN * (GATE_GAIN if sparse else 1.0), rngs=rngs)
        self.infer_router = TypedLinear(tokens, dim, experts, rngs=rngs) if sparse else None
        self.train_router = TypedLinear(tokens, dim, experts, rngs=rngs) if sparse else None

    def __call__(self, s: Tokens, train_routed: Bool[Array, "B"] | None) -> tuple[Tokens, Float[Array, "T B G"] | None]:
        """Return the output and, in training, the inference router's gates for every candidate, cut off from what they read.

        `train_routed` says which candidates go through the training router; None outside training. Cut off, the gates carry the
        penalty to the inference router and to nothing below it, the training routers of the layers before included.
        """
        hidden = jax.nn.gelu(self.up(s))
        if self.infer_router is None or self.train_router is None:
            return self.down(hidden), None
        used, penalised = jax.nn.relu(self.infer_router(s)), None
        if train_routed is not None:
            used = jnp.where(train_routed[:, None], jax.nn.relu(self.train_router(s)), used)
            penalised = jax.nn.relu(self.infer_router(jax.lax.stop_gradient(s)))
        return self.down(gate_experts(hidden, used)), penalised


class RankMixer(nnx.Module):
    """The ranker: `model(rows, batch)` gives one logit a candidate and task; `bias_init` as in HHSFT."""

    def __init__(self, config: RankMixerConfig, spec: FeatureSpec, *, rngs: nnx.Rngs, bias_init: Sequence[float] = ()):
        self.config, self.spec = config, spec
        self.tokens = ChunkTokens(spec, embed_dim=config.embed_dim, num_tokens=config.num_tokens, dim=config.dim, rngs=rngs)
        self.ffns = nnx.List([TokenFFN(config, rngs=rngs) for _ in range(config.num_layers)])
        self.head = Linear(config.dim, len(spec.tasks), gain=RELU_GAIN * HEAD_GAIN, rngs=rngs)
        # No parameters: the strength follows the share of open gates from step to step and is saved with the state; gates, open
        # ones and all, are counted over the parts of a step.
        self.l1 = nnx.Variable(jnp.float32(L1_START)) if config.num_experts > 1 else None
        self.num_gates = nnx.Variable(jnp.zeros(2, jnp.float32)) if config.num_experts > 1 else None
        if bias_init:
            start_bias(self.head.bias, bias_init)

    def __call__(self, rows: Rows, batch: Batch) -> Logits:
        """Score every candidate, all through the inference router; `rows` are the embeddings of `batch.unique_rows`."""
        return self._score(rows, batch, None)[0]

    def with_penalty(
        self, rows: Rows, batch: Batch, loss_of: Callable[[Logits], Float[Array, ""]]
    ) -> tuple[Logits, Float[Array, ""]]:
        """Score for training, every second candidate through the training router; return the l1 penalty beside the logits.

        The penalty is strength x the mean gate over candidates of positive weight, tokens, layers and experts. The strength
        stays until `end_step`.
        """
        if self.l1 is None or self.num_gates is None:
            return self(rows, batch), jnp.float32(0.0)
        # By request and place together: lists of one even length would else give a place always to one router.
        places = jnp.arange(batch.request_index.shape[0], dtype=batch.request_index.dtype)
        logits, layers = self._score(rows, batch, (places + batch.request_index) % 2 == 0)
        gates = jnp.stack(layers)
        real = jnp.any(batch.weights > 0, axis=-1)[:, None]
        count = jnp.sum(real, dtype=jnp.float32) * (gates.size // gates.shape[2])
        num_open = jnp.sum((gates > 0) & real, dtype=jnp.float32)
        self.num_gates[...] = self.num_gates[...] + jnp.stack([num_open, count])
        mean_gate = jnp.sum(jnp.where(real, gates, 0), dtype=jnp.float32) / jnp.maximum(count, 1.0)
        return logits, self.l1[...] * mean_gate

    def end_step(self) -> None:
        """Raise the penalty's strength if more than `active_experts` of the step's gates were open, lower it if fewer were."""
        if self.l1 is None or self.num_gates is None:
            return
        num_open, count = self.num_gates[...]
        too_many = jnp.sign(num_open - count * (self.config.active_experts / self.config.num_experts))
        self.l1[...] = jnp.clip(self.l1[...] * L1_GROWTH**too_many, *L1_RANGE)
        self.num_gates[...] = jnp.zeros_like(self.num_gates[...])

    def _score(
        self, rows: Rows, batch: Batch, train_routed: Bool[Array, "B"] | None
    ) -> tuple[Logits, list[Float[Array, "T B G"]]]:
        x, layers = self.tokens(rows, batch), []
        for ffn in self.ffns:
            x, gates = recompute(_block, ffn, x, train_routed)
            if gates is not None:
                layers.append(gates)
        return self.head(jnp.mean(x, axis=0)), layers


def _block(ffn: TokenFFN, x: Tokens, train_routed: Bool[Array, "B"] | None) -> tuple[Tokens, Float[Array, "T B G"] | None]:
    s = layer_norm(mix_tokens(x) + x)
    out, gates = ffn(s, train_routed)
    return layer_norm(out + s), gates


def num_params(config: RankMixerConfig, spec: FeatureSpec) -> ParamCount:
    """Count parameters in closed form; active are those of `active_experts` experts and of the inference router."""
    tokens, dim, hidden, experts = config.num_tokens, config.dim, config.ffn_dim, config.num_experts
    layers = config.num_layers * tokens
    inner = 2 * dim * hidden + hidden
    router = (dim + 1) * experts if experts > 1 else 0
    dense = tokens_params(spec, embed_dim=config.embed_dim, num_tokens=tokens, dim=dim)
    dense += layers * (inner + dim + 2 * router) + (dim + 1) * len(spec.tasks)
    idle = layers * (inner // experts * (experts - config.active_experts) + router)
    return ParamCount(embedding=spec.num_rows * config.embed_dim, dense=dense, active=dense - idle, train_only=layers * router)


def flops_per_example(config: RankMixerConfig, spec: FeatureSpec) -> FlopCount:
    """Count forward FLOPs of scoring, a candidate and a request, in closed form.

    `candidate` is what runs here: every expert, then the gates. `candidate_active` is what a device that skips closed experts
    needs if `active_experts` are open. A training pass runs three routers, 4 L T D `num_experts` more than `candidate`.
    """
    tokens, dim, hidden, experts = config.num_tokens, config.dim, config.ffn_dim, config.num_experts
    layers = config.num_layers * tokens
    request, candidate = tokens_flops(spec, embed_dim=config.embed_dim, num_tokens=tokens, dim=dim)
    candidate += 4 * layers * dim * hidden + 2 * dim * len(spec.tasks)
    candidate += 2 * layers * dim * experts if experts > 1 else 0
    idle = 4 * layers * dim * (hidden // experts) * (experts - config.active_experts)
    return FlopCount(candidate=candidate, candidate_active=candidate - idle, request=request)


RUNGS = {"xxs": 8, "xs": 16, "s": 24, "m": 32, "l": 40, "xl": 56, "xxl": 80}
"""Width of a token at each size; 8 tokens, 2 blocks, k = 2."""


def ladder(
    *, embed_dim: int, num_experts: int = 1, active_experts: int = 1, rungs: Mapping[str, int] = RUNGS
) -> dict[str, RankMixerConfig]:
    """Return the sizes by name, smallest first; from "s" on they lie close to HHSFT's of the same name."""
    return {
        name: RankMixerConfig(
            embed_dim=embed_dim,
            num_tokens=8,
            dim=width,
            ffn_dim=2 * width,
            num_experts=num_experts,
            active_experts=active_experts,
        )
        for name, width in rungs.items()
    }


PUBLISHED = {
    "100M": RankMixerConfig(embed_dim=16, num_tokens=16, dim=768, ffn_dim=2176),
    "1B": RankMixerConfig(embed_dim=16, num_tokens=32, dim=1536, ffn_dim=5568),
}
"""The sizes of the paper's comparison: 107 M and 1.1 B dense parameters. T, D and L are given, k is not: 2 k L T D^2 makes it
2.83 (here 17/6) and, the total being rounded, between 3.5 and 3.8 (here 29/8). The embedding width is ours."""
