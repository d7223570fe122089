"""The reference ranker: a plain transformer in which every feature is a token, the yardstick for speed and for quality.

    id fields, numerics, history entries -> tokens -> L x (attention, SwiGLU) -> mean -> one head a task

A categorical field has its own projection, a numeric field its own vector (times the value) and bias; the fields of a history
entry lie end to end and all entries share one projection. Blocks normalise first (RMS without gain) and have no bias; padded
history is masked; the gated unit is that of arXiv 2002.05202, section 2. There is no position code: fields tell themselves
apart by their projections, and the history is a set but for what its own fields (such as age) say.

`context` says what the tokens of the request and its history (the context) may see, with the same parameters either way:

* "joint": everything. Each candidate's row holds all tokens, and the mean is over all real ones.
* "shared": itself only, so that it is computed once a request; a candidate's tokens see the context's keys and values of the
  same layer and each other, never another candidate (as in MTGR, arXiv 2505.18654). The mean is over the candidate's own
  tokens, so the last layer of the context ends with its keys and values. Batches need a `list_len`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from unisc.data.features import Batch, FeatureSpec, Level
from unisc.dims import Logits, Rows
from unisc.errors import InputError
from unisc.models.checks import check_fields, check_multiples
from unisc.models.counts import FlopCount, ParamCount
from unisc.nn.attention import BLOCKED, masked_attention, score_scale, unnormalised_softmax
from unisc.nn.embedding import concat_fields, lookup, to_candidates
from unisc.nn.linear import Linear, TypedLinear, normal, product, start_bias
from unisc.nn.norm import rms_norm
from unisc.nn.recompute import recompute
from unisc.nn.slots import Context, Slots

HEAD_GAIN = 0.1  # logits start near their bias
SWIGLU_GAIN = 1.68  # undoes what silu(g) * u takes off the mean square


@dataclass(frozen=True, kw_only=True, slots=True)
class TransformerConfig:
    """Width, depth and heads; `ffn_hidden` is the width of each of the gated unit's two halves."""

    embed_dim: int
    dim: int
    num_layers: int
    num_heads: int
    ffn_hidden: int
    context: Context = "joint"

    def __post_init__(self) -> None:
        check_fields(self)
        check_multiples(self, dim="num_heads")


class FeatureTokens(nnx.Module):
    """One token a categorical or numeric field of a level."""

    def __init__(self, spec: FeatureSpec, level: Literal["request", "candidate"], config: TransformerConfig, *, rngs: nnx.Rngs):
        num_ids, num_numeric, dim = len(spec.at(level)), len(spec.numeric_at(level)), config.dim
        self.fields = TypedLinear(num_ids, config.embed_dim, dim, rngs=rngs) if num_ids else None
        self.slope = nnx.Param(normal(rngs, (num_numeric, dim))) if num_numeric else None
        self.offset = nnx.Param(jnp.zeros((num_numeric, dim), jnp.float32)) if num_numeric else None

    def __call__(self, embedded: Float[Array, "K M E"], numeric: Float[Array, "K P"]) -> list[Float[Array, "K _ D"]]:
        """Return the tokens of the categorical fields and those of the numeric ones, where there are any."""
        tokens = []
        if self.fields is not None:
            tokens.append(self.fields(embedded.swapaxes(0, 1)).swapaxes(0, 1))
        if self.slope is not None and self.offset is not None:
            tokens.append(numeric[..., None] * self.slope[...] + self.offset[...])
        return tokens


class Block(nnx.Module):
    """A pre-norm transformer block; one set of parameters for the context and for the candidate."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        dim, hidden = config.dim, config.ffn_hidden
        self.dim, self.num_heads = dim, config.num_heads
        residual_gain = config.num_layers**-0.5
        self.qkv = Linear(dim, 3 * dim, bias=False, rngs=rngs)
        self.out = Linear(dim, dim, bias=False, gain=residual_gain, rngs=rngs)
        self.up = Linear(dim, 2 * hidden, bias=False, rngs=rngs)
        self.down = Linear(hidden, dim, bias=False, gain=SWIGLU_GAIN * residual_gain, rngs=rngs)

    def __call__(self, x: Float[Array, "B T D"], blocked: Float[Array, "B T"]) -> Float[Array, "B T D"]:
        """Let all tokens of a row see each other."""
        q, k, v = self.queries_keys_values(x)
        return self.finish(x, masked_attention(q, k, v, blocked[:, None]))

    def shared(
        self, context: Float[Array, "R S D"], own: Float[Array, "B T D"], blocked: Float[Array, "R S"], slots: Slots
    ) -> tuple[Float[Array, "R S D"], Float[Array, "B T D"]]:
        """Let a request's context see itself, and each candidate's tokens the context and themselves."""
        if not context.shape[1]:
            return context, self.last(context, own, blocked, slots)
        queries, keys, values = self.queries_keys_values(context)
        own = self._own(own, keys, values, blocked, slots)
        return self.finish(context, masked_attention(queries, keys, values, blocked[:, None])), own

    def last(
        self, context: Float[Array, "R S D"], own: Float[Array, "B T D"], blocked: Float[Array, "R S"], slots: Slots
    ) -> Float[Array, "B T D"]:
        """Return the candidates' tokens of `shared` alone, for a context that nothing reads any further."""
        keys, values = self.keys_values(context)
        return self._own(own, keys, values, blocked, slots)

    def queries_keys_values(self, x: Float[Array, "*batch D"]) -> list[Float[Array, "*batch N H"]]:
        """Return (scaled) queries, keys and values, split into heads."""
        q, k, v = jnp.split(self.qkv(rms_norm(x)), 3, axis=-1)
        return [self._heads(part) for part in (q * score_scale(self.dim // self.num_heads), k, v)]

    def keys_values(self, x: Float[Array, "*batch D"]) -> list[Float[Array, "*batch N H"]]:
        """Return keys and values alone, for tokens that nothing reads any further."""
        kernel = self.qkv.kernel[...][:, self.dim :]
        y = product(rms_norm(x), kernel) * self.qkv.multiplier
        return [self._heads(part) for part in jnp.split(y, 2, axis=-1)]

    def finish(self, x: Float[Array, "*batch D"], attended: Float[Array, "*batch N H"]) -> Float[Array, "*batch D"]:
        """Add what attention brought, then the gated unit's output."""
        x = x + self.out(attended.reshape(x.shape))
        gate, up = jnp.split(self.up(rms_norm(x)), 2, axis=-1)
        return x + self.down(jax.nn.silu(gate) * up)

    def _own(
        self,
        x: Float[Array, "B T D"],
        keys: Float[Array, "R S N H"],
        values: Float[Array, "R S N H"],
        blocked: Float[Array, "R S"],
        slots: Slots,
    ) -> Float[Array, "B T D"]:
        # Lists for attention alone: their empty slots would cost the maps, four fifths of a block, as much as real ones do.
        q, k, v = (slots.spread(part) for part in self.queries_keys_values(x))
        return self.finish(x, slots.collect(list_attention(q, k, v, keys, values, blocked)))

    def _heads(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch N H"]:
        return x.reshape(*x.shape[:-1], self.num_heads, self.dim // self.num_heads)


class Transformer(nnx.Module):
    """The reference ranker: `model(rows, batch)` gives one logit a candidate and task; `bias_init` as in HHSFT.

    Raises InputError for a specification without a feature of the candidate, and for a batch without lists if `context` is
    "shared".
    """

    def __init__(self, config: TransformerConfig, spec: FeatureSpec, *, rngs: nnx.Rngs, bias_init: Sequence[float] = ()):
        if not num_tokens(spec)[1]:
            raise InputError("candidate features 0: all candidates of a request would score alike; give at least one")
        self.config, self.spec = config, spec
        self.request = FeatureTokens(spec, "request", config, rngs=rngs)
        self.candidate = FeatureTokens(spec, "candidate", config, rngs=rngs)
        width = len(spec.at("history")) * config.embed_dim
        self.history = Linear(width, config.dim, rngs=rngs) if width else None
        self.blocks = nnx.List([Block(config, rngs=rngs) for _ in range(config.num_layers)])
        self.head = Linear(config.dim, len(spec.tasks), gain=HEAD_GAIN, rngs=rngs)
        if bias_init:
            start_bias(self.head.bias, bias_init)

    def __call__(self, rows: Rows, batch: Batch) -> Logits:
        """Score every candidate; `rows` are the embeddings of `batch.unique_rows`."""
        own = jnp.concatenate(self.candidate(lookup(rows, batch.candidate_ids), batch.candidate_numeric), axis=1)
        context, real = self.context_tokens(rows, batch)
        score = self._joint if self.config.context == "joint" else self._shared
        return self.head(score(context, real, own, batch))

    def context_tokens(self, rows: Rows, batch: Batch) -> tuple[Float[Array, "R T D"], Bool[Array, "R T"]]:
        """Return the tokens of a request and its history, and which of them are real."""
        tokens = self.request(lookup(rows, batch.request_ids), batch.request_numeric)
        num_requests = batch.request_ids.shape[0]
        real = [jnp.ones((num_requests, part.shape[1]), bool) for part in tokens]
        if self.history is not None:
            tokens.append(self.history(concat_fields(lookup(rows, batch.history_ids))))
            real.append(batch.history_mask)
        if not tokens:
            return jnp.zeros((num_requests, 0, self.config.dim), rows.dtype), jnp.ones((num_requests, 0), bool)
        return jnp.concatenate(tokens, axis=1), jnp.concatenate(real, axis=1)

    def _joint(
        self, context: Float[Array, "R S D"], real: Bool[Array, "R S"], own: Float[Array, "B T D"], batch: Batch
    ) -> Float[Array, "B D"]:
        x = jnp.concatenate([to_candidates(context, batch.request_index), own], axis=1)
        real = jnp.concatenate([to_candidates(real, batch.request_index), jnp.ones(own.shape[:2], bool)], axis=1)
        blocked = jnp.where(real, 0.0, BLOCKED).astype(x.dtype)
        for block in self.blocks:
            x = recompute(Block.__call__, block, x, blocked)
        count = jnp.sum(real, axis=1, keepdims=True).astype(x.dtype)
        return jnp.sum(jnp.where(real[..., None], rms_norm(x), 0.0), axis=1) / count

    def _shared(
        self, context: Float[Array, "R S D"], real: Bool[Array, "R S"], own: Float[Array, "B T D"], batch: Batch
    ) -> Float[Array, "B D"]:
        slots = Slots(batch.request_index, batch.lists)
        blocked = jnp.where(real, 0.0, BLOCKED).astype(own.dtype)
        for block in self.blocks[:-1]:
            context, own = recompute(Block.shared, block, context, own, blocked, slots)
        own = recompute(Block.last, self.blocks[-1], context, own, blocked, slots)
        return jnp.mean(rms_norm(own), axis=1)


def list_attention(
    q: Float[Array, "R C T N H"],
    k: Float[Array, "R C T N H"],
    v: Float[Array, "R C T N H"],
    context_k: Float[Array, "R S N H"],
    context_v: Float[Array, "R S N H"],
    blocked: Float[Array, "R S"],
) -> Float[Array, "R C T N H"]:
    """Let each candidate's tokens attend to their request's context and to each other, in one softmax.

    The context's keys and values stay one copy a request: all candidates of a list meet them in one matrix product.
    """
    over_context = jnp.einsum("rctnh,rsnh->rncts", q, context_k) + blocked[:, None, None, None]
    over_own = jnp.einsum("rctnh,rcsnh->rncts", q, k)
    (to_context, to_own), total = unnormalised_softmax(over_context, over_own)
    summed = jnp.einsum("rncts,rsnh->rctnh", to_context, context_v) + jnp.einsum("rncts,rcsnh->rctnh", to_own, v)
    return summed / jnp.moveaxis(total, 1, 3)


def num_tokens(spec: FeatureSpec) -> tuple[int, int]:
    """Return how many tokens a request (its history included) and a candidate have."""
    history = spec.history_len if spec.at("history") else 0
    levels: tuple[Level, Level] = ("request", "candidate")
    request, candidate = (len(spec.at(level)) + len(spec.numeric_at(level)) for level in levels)
    return request + history, candidate


def num_params(config: TransformerConfig, spec: FeatureSpec) -> ParamCount:
    """Count parameters in closed form, the same for both contexts; every dense one is active."""
    dim, width = config.dim, config.embed_dim
    num_ids = len(spec.at("request")) + len(spec.at("candidate"))
    tokens = num_ids * (width + 1) * dim + 2 * len(spec.numeric) * dim
    if num_history := len(spec.at("history")):
        tokens += (num_history * width + 1) * dim
    block = 4 * dim * dim + 3 * dim * config.ffn_hidden
    dense = tokens + config.num_layers * block + (dim + 1) * len(spec.tasks)
    return ParamCount(embedding=spec.num_rows * width, dense=dense, active=dense)


def flops_per_example(config: TransformerConfig, spec: FeatureSpec) -> FlopCount:
    """Count forward FLOPs a candidate and a request in closed form, masked history included.

    A shared context's attention is computed for the empty slots of the lists, too, which this does not count; the rest is not.
    """
    dim, num_layers = config.dim, config.num_layers
    context, own = num_tokens(spec)
    maps = 8 * dim * dim + 6 * dim * config.ffn_hidden  # a token and layer: projections and gated unit
    request = 2 * len(spec.at("request")) * config.embed_dim * dim
    request += 2 * spec.history_len * len(spec.at("history")) * config.embed_dim * dim
    candidate = 2 * len(spec.at("candidate")) * config.embed_dim * dim + 2 * dim * len(spec.tasks)
    if config.context == "joint":
        tokens = context + own
        candidate += num_layers * (tokens * maps + 4 * tokens * tokens * dim)
    else:
        request += (num_layers - 1) * (context * maps + 4 * context * context * dim) + 4 * context * dim * dim
        candidate += num_layers * (own * maps + 4 * own * (context + own) * dim)
    return FlopCount(candidate=candidate, candidate_active=candidate, request=request)


REFERENCE_FFN = {64: 192, 128: 384, 256: 704}
"""Hidden width of the gated unit at each width of the speed benchmark."""


def reference(dim: int, *, embed_dim: int = 32, context: Context = "joint") -> TransformerConfig:
    """Return the ranker of the speed benchmark: 4 layers, 4 heads, width 64, 128 or 256."""
    if dim not in REFERENCE_FFN:
        raise InputError(f"dim: no reference ranker of width {dim}; give one of {', '.join(map(str, REFERENCE_FFN))}")
    return TransformerConfig(
        embed_dim=embed_dim, dim=dim, num_layers=4, num_heads=4, ffn_hidden=REFERENCE_FFN[dim], context=context
    )


RUNGS = {"xxs": 8, "xs": 16, "s": 32, "m": 44, "l": 60, "xl": 88, "xxl": 132}
"""Width at each size; sizes lie close to HHSFT's of the same name."""


def ladder(*, embed_dim: int, context: Context = "joint", rungs: Mapping[str, int] = RUNGS) -> dict[str, TransformerConfig]:
    """Return the sizes by name, smallest first: two layers and two heads throughout, widths growing."""
    return {
        name: TransformerConfig(embed_dim=embed_dim, dim=dim, num_layers=2, num_heads=2, ffn_hidden=3 * dim, context=context)
        for name, dim in rungs.items()
    }
