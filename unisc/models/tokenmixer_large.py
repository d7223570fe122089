"""TokenMixer-Large: RankMixer with a residual that keeps its meaning, deep and gated (arXiv 2602.06563, section 3).

    features -> global token and T - 1 chunks -> X
    L times:  H = Mix(X),  H' = H + pSwiGLU(RMSNorm(H)),  X' = X + pSwiGLU(RMSNorm(Revert(H')))
    mean over tokens of RMSNorm(X) -> heads

Mix (see `unisc.models.rankmixer`) hands every token slices of the others; Revert hands them back, so that the block's residual
adds a token to itself. pSwiGLU(x) = (silu(x W_g) * (x W_u)) W_d, its own a token, D -> `ffn_dim` -> D, so a block has
6 T D ffn_dim parameters; W_d starts at standard deviation .01, every block near the identity. Past every `residual_every`
blocks the input of those blocks is added once more, the last block excepted; there shallow heads score the candidates, too, and
`aux_weight` times the mean of their losses is trained on beside the loss (`with_penalty`). They play no part in scoring.

With `num_experts` > 1 the hidden layer is split into that many experts a token, the first always on (section 3.4). Of the
others the `active_experts` - 1 of largest softmax are added, times their softmax and times (others / chosen), the gate
scaling inverse to sparsity: with equal gates the weights sum to 1 at any sparsity. The softmax is over all the others, not
over the chosen ones alone: of one chosen expert it would be 1, and the router would get no gradient. Routing is the same in
training and scoring.

What we read of the paper leaves open which logits are shallow, the shared expert's size and the gates' exact scale; the above
is our reading. RMSNorm has no gain. Chunks and the history: see `unisc.models.chunks`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from unisc.data.features import Batch, FeatureSpec
from unisc.dims import Logits, Rows, Tokens
from unisc.errors import InputError
from unisc.models.checks import check_fields, check_multiples
from unisc.models.chunks import ChunkTokens, tokens_flops, tokens_params
from unisc.models.counts import FlopCount, ParamCount
from unisc.nn.linear import RELU_GAIN, Linear, TypedLinear, start_bias
from unisc.nn.mixing import gate_experts, mix_tokens
from unisc.nn.norm import rms_norm
from unisc.nn.recompute import recompute

HEAD_GAIN = 0.1  # logits start near their bias


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenMixerLargeConfig:
    """Tokens (the global one included), their width, the hidden width of a SwiGLU, and the number of blocks.

    `num_experts` 1 is the dense model; more split `ffn_dim`, of which `active_experts` serve a token, the shared one included.
    """

    embed_dim: int
    num_tokens: int
    dim: int
    ffn_dim: int
    num_layers: int = 3
    residual_every: int = 2
    aux_weight: float = 0.1
    down_std: float = 0.01
    num_experts: int = 1
    active_experts: int = 1

    def __post_init__(self) -> None:
        check_fields(self, least={"num_tokens": 3, "active_experts": 1 if self.num_experts == 1 else 2})
        check_multiples(self, dim="num_tokens", ffn_dim="num_experts")
        if self.active_experts > self.num_experts:
            raise InputError(
                f"active_experts: {self.active_experts} is more than num_experts={self.num_experts}; give that or fewer"
            )

    @property
    def num_shallow(self) -> int:
        """How many times blocks are bridged, and so how many shallow heads there are."""
        return (self.num_layers - 1) // self.residual_every


class TokenSwiGLU(nnx.Module):
    """One SwiGLU a token, or several experts a token that split its hidden layer."""

    def __init__(self, config: TokenMixerLargeConfig, *, rngs: nnx.Rngs):
        tokens, dim, hidden, experts = config.num_tokens, config.dim, config.ffn_dim, config.num_experts
        self.gate_up = TypedLinear(tokens, dim, 2 * hidden, rngs=rngs)
        self.down = TypedLinear(tokens, hidden, dim, gain=config.down_std * math.sqrt(hidden), rngs=rngs)
        self.router = TypedLinear(tokens, dim, experts - 1, rngs=rngs) if experts > 1 else None
        self.num_routed = config.active_experts - 1

    def __call__(self, x: Tokens) -> Tokens:
        """Map each token's rows by its own network; the bias of the last layer is added whatever the routing."""
        gate, up = jnp.split(self.gate_up(x), 2, axis=-1)
        hidden = jax.nn.silu(gate) * up
        return self.down(hidden if self.router is None else gate_experts(hidden, self.weights(x)))

    def weights(self, x: Tokens) -> Float[Array, "T B G"]:
        """Return every expert's weight: 1 for the shared one, scaled softmax for the chosen, 0 for the rest."""
        assert self.router is not None
        probs = jax.nn.softmax(self.router(x), axis=-1)
        num_others = probs.shape[-1]
        _, best = jax.lax.top_k(probs, self.num_routed)
        chosen = jnp.sum(jax.nn.one_hot(best, num_others, dtype=probs.dtype), axis=-2)
        shared = jnp.ones((*probs.shape[:-1], 1), probs.dtype)
        return jnp.concatenate([shared, probs * chosen * (num_others / self.num_routed)], axis=-1)


class Block(nnx.Module):
    """Mix, a SwiGLU on the mixed tokens, revert, a SwiGLU on the tokens themselves."""

    def __init__(self, config: TokenMixerLargeConfig, *, rngs: nnx.Rngs):
        self.mixed = TokenSwiGLU(config, rngs=rngs)
        self.reverted = TokenSwiGLU(config, rngs=rngs)

    def __call__(self, x: Tokens) -> Tokens:
        """Return the tokens after the block."""
        h = mix_tokens(x)
        h = h + self.mixed(rms_norm(h))
        return x + self.reverted(rms_norm(mix_tokens(h)))  # mixing reverts itself


class TokenMixerLarge(nnx.Module):
    """The ranker: `model(rows, batch)` gives one logit a candidate and task; `bias_init` as in HHSFT."""

    def __init__(self, config: TokenMixerLargeConfig, spec: FeatureSpec, *, rngs: nnx.Rngs, bias_init: Sequence[float] = ()):
        self.config, self.spec = config, spec
        self.tokens = ChunkTokens(
            spec, embed_dim=config.embed_dim, num_tokens=config.num_tokens, dim=config.dim, global_token=True, rngs=rngs
        )
        self.blocks = nnx.List([Block(config, rngs=rngs) for _ in range(config.num_layers)])
        heads = [
            Linear(config.dim, len(spec.tasks), gain=RELU_GAIN * HEAD_GAIN, rngs=rngs) for _ in range(config.num_shallow + 1)
        ]
        self.head, self.shallow_heads = heads[0], nnx.List(heads[1:])
        for head in heads if bias_init else ():
            start_bias(head.bias, bias_init)

    def __call__(self, rows: Rows, batch: Batch) -> Logits:
        """Score every candidate; `rows` are the embeddings of `batch.unique_rows`."""
        return self.head(_pool(self._run(rows, batch)[-1]))

    def with_penalty(
        self, rows: Rows, batch: Batch, loss_of: Callable[[Logits], Float[Array, ""]]
    ) -> tuple[Logits, Float[Array, ""]]:
        """Score for training: the logits, and `aux_weight` x the mean loss of the shallow heads' logits."""
        *shallow, last = self._run(rows, batch)
        losses = [loss_of(head(_pool(x))) for head, x in zip(self.shallow_heads, shallow, strict=True)]
        penalty = self.config.aux_weight * jnp.mean(jnp.stack(losses)) if losses else jnp.float32(0.0)
        return self.head(_pool(last)), penalty

    def _run(self, rows: Rows, batch: Batch) -> list[Tokens]:
        """Return the tokens wherever blocks are bridged, and those after the last block."""
        x = self.tokens(rows, batch)
        bridged, ends = x, []
        for i, block in enumerate(self.blocks, start=1):
            x = recompute(Block.__call__, block, x)
            if i % self.config.residual_every == 0 and i < self.config.num_layers:
                bridged = x = x + bridged
                ends.append(x)
        return [*ends, x]


def _pool(x: Tokens) -> Float[Array, "B D"]:
    return jnp.mean(rms_norm(x), axis=0)


def num_params(config: TokenMixerLargeConfig, spec: FeatureSpec) -> ParamCount:
    """Count parameters in closed form; active are those of the head and of `active_experts` experts."""
    tokens, dim, hidden, experts = config.num_tokens, config.dim, config.ffn_dim, config.num_experts
    networks = 2 * config.num_layers * tokens
    inner = 3 * dim * hidden + 2 * hidden
    head = (dim + 1) * len(spec.tasks)
    dense = tokens_params(spec, embed_dim=config.embed_dim, num_tokens=tokens, dim=dim, global_token=True)
    dense += networks * (inner + dim + (dim + 1) * (experts - 1)) + (config.num_shallow + 1) * head
    shallow = config.num_shallow * head
    idle = networks * (inner // experts) * (experts - config.active_experts) + shallow
    return ParamCount(embedding=spec.num_rows * config.embed_dim, dense=dense, active=dense - idle, train_only=shallow)


def flops_per_example(config: TokenMixerLargeConfig, spec: FeatureSpec) -> FlopCount:
    """Count forward FLOPs of scoring, a candidate and a request, in closed form.

    `candidate` is what runs here: every expert, then the weights. `candidate_active` is what a device needs that sorts tokens
    by expert and skips the rest. A training pass adds 2 D x tasks for each shallow head.
    """
    tokens, dim, hidden, experts = config.num_tokens, config.dim, config.ffn_dim, config.num_experts
    networks = 2 * config.num_layers * tokens
    request, candidate = tokens_flops(spec, embed_dim=config.embed_dim, num_tokens=tokens, dim=dim, global_token=True)
    candidate += networks * (6 * dim * hidden + 2 * dim * (experts - 1)) + 2 * dim * len(spec.tasks)
    idle = networks * 6 * dim * (hidden // experts) * (experts - config.active_experts)
    return FlopCount(candidate=candidate, candidate_active=candidate - idle, request=request)


RUNGS = {"xxs": 6, "xs": 12, "s": 18, "m": 24, "l": 30, "xl": 42, "xxl": 66}
"""Width of a token at each size; 6 tokens, 3 blocks, one bridge and one shallow head, hidden layers as wide as a token."""


def ladder(
    *, embed_dim: int, num_experts: int = 1, active_experts: int = 1, rungs: Mapping[str, int] = RUNGS
) -> dict[str, TokenMixerLargeConfig]:
    """Return the sizes by name, smallest first; from "s" on they lie close to HHSFT's of the same name.

    The paper gives the totals of its sizes (4, 7 and 15 billion parameters) but, in what we could read, not their T, D and L.
    """
    return {
        name: TokenMixerLargeConfig(
            embed_dim=embed_dim,
            num_tokens=6,
            dim=width,
            ffn_dim=width,
            num_experts=num_experts,
            active_experts=active_experts,
        )
        for name, width in rungs.items()
    }
