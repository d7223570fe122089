"""HiFormer: a transformer over feature and task tokens whose projections mix all features (arXiv 2311.05884).

    one token a task, feature tokens -> L x (attention, one FFN a token) -> a task's token -> its logit

Two kinds of projections. "heterogeneous": every token has its own query, key and value maps, so that the meaning of a pair is
its own. "composite" (HiFormer proper): the queries of all T tokens together are one map of the concatenation of all tokens, and
so are the keys and the values; each head's map, (T x D) to (T x H), is a product of two factors of rank `rank`, the paper's
low-rank approximation. Nothing reads a feature's token after the last layer, which therefore has queries and FFNs for the task
tokens only (the paper's pruning).

Ours: the paper has no history, which gives two tokens here, its mean and what of it the candidate attends to; the numerics of a
level give one token; blocks normalise first and have residual paths; the left factor has a bias; a task's head is linear.
Written from the paper's abstract and what is generally known of it, since its full text was not at hand: the norms and the
place of residuals may differ. Composite projections mix the candidate into every token from the first layer on, so
there is no shared context but the request's part of the first layer's left factor, which is computed once a request.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from unisc.data.features import Batch, FeatureSpec
from unisc.dims import Logits, RequestIndex, Rows, Tokens
from unisc.models.checks import check_fields, check_multiples
from unisc.models.counts import FlopCount, ParamCount, mlp_flops, mlp_params
from unisc.models.inputs import shared_fields
from unisc.models.tokens import HistoryPool
from unisc.nn.attention import attention
from unisc.nn.embedding import lookup
from unisc.nn.linear import Linear, TypedLinear, normal, start_bias
from unisc.nn.mlp import JointLinear, TypedMLP
from unisc.nn.norm import rms_norm
from unisc.nn.recompute import recompute

Projection = Literal["composite", "heterogeneous"]

QKV = tuple[Float[Array, "B T N H"], Float[Array, "B S N H"], Float[Array, "B S N H"]]

HEAD_GAIN = 0.1  # logits start near their bias


@dataclass(frozen=True, kw_only=True, slots=True)
class HiFormerConfig:
    """Width of a token, depth, heads, and the rank of a head's composite maps (read by "composite" alone)."""

    embed_dim: int
    dim: int
    rank: int
    num_layers: int = 2
    num_heads: int = 2
    ffn_multiplier: int = 2
    projection: Projection = "composite"

    def __post_init__(self) -> None:
        check_fields(self)
        check_multiples(self, dim="num_heads")


class Composite(nnx.Module):
    """Queries, keys and values of all tokens from the concatenation of all, each head's map in two factors."""

    def __init__(self, config: HiFormerConfig, request: int, candidate: int, queries: int, *, rngs: nnx.Rngs):
        self.num_heads, self.rank = config.num_heads, config.rank
        tokens, head_dim = request + candidate, config.dim // config.num_heads
        self.left = JointLinear(request * config.dim, candidate * config.dim, 3 * self.num_heads * self.rank, rngs=rngs)
        self.queries = TypedLinear(self.num_heads, self.rank, queries * head_dim, bias=False, rngs=rngs)
        self.keys_values = TypedLinear(2 * self.num_heads, self.rank, tokens * head_dim, bias=False, rngs=rngs)

    def __call__(self, request: Float[Array, "Tr R D"], candidate: Float[Array, "Tc B D"], request_index: RequestIndex) -> QKV:
        """Return queries of the first tokens, keys and values of all; tokens of the request come first."""
        head_dim = candidate.shape[-1] // self.num_heads
        low = self.left(_end_to_end(request), _end_to_end(candidate), request_index)
        low = low.reshape(low.shape[0], 3 * self.num_heads, self.rank).swapaxes(0, 1)
        q = self.queries(low[: self.num_heads])
        k, v = jnp.split(self.keys_values(low[self.num_heads :]), 2)
        q, k, v = (y.reshape(*y.shape[:2], -1, head_dim).transpose(1, 2, 0, 3) for y in (q, k, v))
        return q, k, v


class Heterogeneous(nnx.Module):
    """A query, key and value map of its own for every token."""

    def __init__(self, config: HiFormerConfig, request: int, candidate: int, queries: int, *, rngs: nnx.Rngs):
        dim, self.num_heads = config.dim, config.num_heads
        self.num_queries = (min(queries, request), max(queries - request, 0))
        self.queries = nnx.List([_typed(n, dim, dim, bias=False, rngs=rngs) for n in self.num_queries])
        self.keys_values = nnx.List([_typed(n, dim, 2 * dim, bias=False, rngs=rngs) for n in (request, candidate)])

    def __call__(self, request: Float[Array, "Tr R D"], candidate: Float[Array, "Tc B D"], request_index: RequestIndex) -> QKV:
        """Return queries of the first tokens, keys and values of all; tokens of the request come first."""
        (q_r, q_c), (kv_r, kv_c), dim = self.queries, self.keys_values, candidate.shape[-1]
        q = _together(
            _map(q_r, request[: self.num_queries[0]], dim), _map(q_c, candidate[: self.num_queries[1]], dim), request_index
        )
        kv = _together(_map(kv_r, request, 2 * dim), _map(kv_c, candidate, 2 * dim), request_index)
        k, v = jnp.split(kv, 2, axis=-1)
        q, k, v = (y.reshape(*y.shape[:2], self.num_heads, -1).swapaxes(0, 1) for y in (q, k, v))
        return q, k, v


class Layer(nnx.Module):
    """Attention and one FFN a token; the last layer of a model goes on with the first `queries` tokens alone."""

    def __init__(self, config: HiFormerConfig, request: int, candidate: int, queries: int, *, rngs: nnx.Rngs):
        self.num_queries, dim, gain = queries, config.dim, config.num_layers**-0.5
        kind = Composite if config.projection == "composite" else Heterogeneous
        self.project = kind(config, request, candidate, queries, rngs=rngs)
        self.out = TypedLinear(queries, dim, dim, bias=False, gain=gain, rngs=rngs)
        self.ffn = TypedMLP(queries, dim, config.ffn_multiplier * dim, gain=gain, rngs=rngs)

    def __call__(
        self, request: Float[Array, "Tr R D"], candidate: Float[Array, "Tc B D"], request_index: RequestIndex
    ) -> Tokens:
        q, k, v = self.project(rms_norm(request), rms_norm(candidate), request_index)
        attended = attention(q, k, v).swapaxes(0, 1)
        x = _together(request, candidate, request_index)[: self.num_queries]
        x = x + self.out(attended.reshape(x.shape))
        return x + self.ffn(rms_norm(x))


class HiFormer(nnx.Module):
    """The ranker: `model(rows, batch)` gives one logit a candidate and task; `bias_init` as in HHSFT."""

    def __init__(self, config: HiFormerConfig, spec: FeatureSpec, *, rngs: nnx.Rngs, bias_init: Sequence[float] = ()):
        self.config, self.spec = config, spec
        dim, embed_dim, num_tasks = config.dim, config.embed_dim, len(spec.tasks)
        levels = ("request", "candidate")
        self.task = nnx.Param(normal(rngs, (num_tasks, dim)))
        self.fields = nnx.List([_typed(len(spec.at(level)), embed_dim, dim, bias=True, rngs=rngs) for level in levels])
        numerics = [len(spec.numeric_at(level)) for level in levels]
        self.numeric = nnx.List([Linear(n, dim, rngs=rngs) if n else None for n in numerics])
        if pooled := len(spec.at("history")) * embed_dim:
            self.history = HistoryPool(spec, embed_dim=embed_dim, dim=dim, rngs=rngs)
            self.mean = Linear(pooled, dim, rngs=rngs)
            self.attended = Linear(pooled + len(shared_fields(spec).candidate), dim, rngs=rngs)
        else:
            self.history = self.mean = self.attended = None
        request, candidate = num_tokens(spec)
        tokens, last = request + candidate, config.num_layers - 1
        self.layers = nnx.List(
            [
                Layer(
                    config,
                    0 if i else request,
                    tokens if i else candidate,
                    num_tasks if i == last else tokens,
                    rngs=rngs,
                )
                for i in range(config.num_layers)
            ]
        )
        self.head = TypedLinear(num_tasks, dim, 1, bias=False, gain=HEAD_GAIN, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros(num_tasks, jnp.float32))
        if bias_init:
            start_bias(self.bias, bias_init)

    def __call__(self, rows: Rows, batch: Batch) -> Logits:
        """Score every candidate; `rows` are the embeddings of `batch.unique_rows`."""
        request, x = self.tokens(rows, batch)
        for layer in self.layers:
            x = recompute(Layer.__call__, layer, request, x, batch.request_index)
            request = request[:0]
        return self.head(rms_norm(x))[..., 0].T + self.bias[...]

    def tokens(self, rows: Rows, batch: Batch) -> tuple[Float[Array, "Tr R D"], Float[Array, "Tc B D"]]:
        """Return the tokens of the request, those of the tasks first, and those of the candidate."""
        ids, numbers = (batch.request_ids, batch.candidate_ids), (batch.request_numeric, batch.candidate_numeric)
        dim = self.config.dim
        tokens = [[_map(maps, lookup(rows, i).swapaxes(0, 1), dim)] for maps, i in zip(self.fields, ids, strict=True)]
        for part, numeric, values in zip(tokens, self.numeric, numbers, strict=True):
            if numeric is not None:
                part.append(numeric(values)[None])
        request, candidate = tokens
        if self.history is not None and self.mean is not None and self.attended is not None:
            own = jnp.concatenate(candidate)
            pooled = self.history(rows, jnp.sum(own, axis=0) / max(own.shape[0], 1), batch)
            request.append(self.mean(pooled.request)[None])
            candidate.append(self.attended(pooled.candidate)[None])
        num_requests = batch.request_ids.shape[0]
        tasks = jnp.broadcast_to(self.task[...][:, None], (self.task.shape[0], num_requests, self.task.shape[1]))
        return jnp.concatenate([tasks, *request]), jnp.concatenate(candidate)


def _typed(num_types: int, dim_in: int, dim_out: int, *, bias: bool, rngs: nnx.Rngs) -> TypedLinear | None:
    """Return maps for that many tokens, nothing for none."""
    return TypedLinear(num_types, dim_in, dim_out, bias=bias, rngs=rngs) if num_types else None


def _map(maps: TypedLinear | None, x: Float[Array, "T B D"], width: int) -> Float[Array, "T B F"]:
    """Map each token, where there is any; `width` is F."""
    return jnp.zeros((0, x.shape[1], width), x.dtype) if maps is None else maps(x)


def _end_to_end(x: Float[Array, "T B D"]) -> Float[Array, "B T*D"]:
    """Concatenate the tokens of a row."""
    return x.swapaxes(0, 1).reshape(x.shape[1], x.shape[0] * x.shape[2])


def _together(request: Float[Array, "Tr R D"], candidate: Float[Array, "Tc B D"], request_index: RequestIndex) -> Tokens:
    """Return all tokens of each candidate."""
    if not request.shape[0]:
        return candidate
    return jnp.concatenate([request.at[:, request_index].get(mode="promise_in_bounds"), candidate])


def num_tokens(spec: FeatureSpec) -> tuple[int, int]:
    """Return how many tokens are the request's (those of tasks included) and the candidate's."""
    history = bool(spec.at("history"))
    request = len(spec.tasks) + len(spec.at("request")) + bool(spec.numeric_at("request")) + history
    return request, len(spec.at("candidate")) + bool(spec.numeric_at("candidate")) + history


def num_params(config: HiFormerConfig, spec: FeatureSpec) -> ParamCount:
    """Count parameters in closed form; every dense one is active."""
    dim, width, num_tasks = config.dim, config.embed_dim, len(spec.tasks)
    dense = num_tasks * dim + (len(spec.at("request")) + len(spec.at("candidate"))) * (width + 1) * dim
    dense += sum((n + 1) * dim for n in (len(spec.numeric_at("request")), len(spec.numeric_at("candidate"))) if n)
    if pooled := len(spec.at("history")) * width:
        pairs = len(shared_fields(spec).candidate)
        dense += (dim + 1) * pooled + pairs + (pooled + 1) * dim + (pooled + pairs + 1) * dim
    tokens = sum(num_tokens(spec))
    for i in range(config.num_layers):
        queries = num_tasks if i == config.num_layers - 1 else tokens
        if config.projection == "composite":
            dense += 3 * (tokens * dim + 1) * config.num_heads * config.rank + (queries + 2 * tokens) * config.rank * dim
        else:
            dense += (queries + 2 * tokens) * dim * dim
        dense += queries * (dim * dim + mlp_params(dim, config.ffn_multiplier * dim, dim))
    dense += num_tasks * (dim + 1)
    return ParamCount(embedding=spec.num_rows * width, dense=dense, active=dense)


def flops_per_example(config: HiFormerConfig, spec: FeatureSpec) -> FlopCount:
    """Count forward FLOPs a candidate and a request in closed form."""
    dim, width, num_tasks = config.dim, config.embed_dim, len(spec.tasks)
    request = 2 * (len(spec.at("request")) * width + len(spec.numeric_at("request"))) * dim
    candidate = 2 * (len(spec.at("candidate")) * width + len(spec.numeric_at("candidate"))) * dim + 2 * num_tasks * dim
    if pooled := len(spec.at("history")) * width:
        pairs = len(shared_fields(spec).candidate)
        request += 2 * spec.history_len * pooled + 2 * pooled * dim
        candidate += 2 * dim * pooled + 4 * spec.history_len * pooled + 2 * pairs * pooled + 2 * (pooled + pairs) * dim
    by_request, tokens = num_tokens(spec)[0], sum(num_tokens(spec))
    for i in range(config.num_layers):
        queries = num_tasks if i == config.num_layers - 1 else tokens
        if config.projection == "composite":
            mixed, each = 6 * dim * config.num_heads * config.rank, 2 * config.rank * dim
            candidate += (queries + 2 * tokens) * each + (tokens if i else tokens - by_request) * mixed
            request += 0 if i else by_request * mixed
        else:
            once = 0 if i else min(queries, by_request) + 2 * by_request
            candidate += 2 * (queries + 2 * tokens - once) * dim * dim
            request += 2 * once * dim * dim
        candidate += 4 * queries * tokens * dim
        candidate += queries * (2 * dim * dim + mlp_flops(dim, config.ffn_multiplier * dim, dim))
    return FlopCount(candidate=candidate, candidate_active=candidate, request=request)


RUNGS = {"xxs": 2, "xs": 4, "s": 8, "m": 12, "l": 16, "xl": 24, "xxl": 36}
"""Width of a token at each size; composite sizes lie close to those of HHSFT of the same name."""


def ladder(
    *, embed_dim: int, projection: Projection = "composite", rungs: Mapping[str, int] = RUNGS
) -> dict[str, HiFormerConfig]:
    """Return the sizes by name, smallest first."""
    return {
        name: HiFormerConfig(embed_dim=embed_dim, dim=dim, rank=max(2, dim // 2), projection=projection)
        for name, dim in rungs.items()
    }
