"""OneTrans: one causal transformer over the history and all other features (arXiv 2510.26104, section 3).

    [S tokens ; NS tokens] -> L x (attention, FFN), each layer with fewer queries -> NS tokens -> one head a task

An event of the history is an S token. All other features, end to end, go through one MLP whose output is cut into the NS tokens
("auto-split"). S tokens share their projections and FFN, every NS token owns its own (equations 11 to 13). A block normalises
first (RMS). A layer keeps the queries of the last S tokens only, linearly fewer up to none, over keys and values of all tokens
it was given (the pyramid, equation 14); the NS tokens stay to the end.

`context` says what the NS tokens are made of:

* "joint": of all features, the candidate's included, as the paper draws. Every candidate's row has its own copy of the history.
* "shared": `num_request_tokens` of them of the request's features alone. They and the S tokens are computed once a request;
  the candidates' own tokens attend to their keys and values, to each other within a candidate, and never to another candidate.
  With `num_request_tokens` 0 it scores as "joint" does with the same parameters: causality leaves every S token the same for
  all candidates, which is what the paper's cache of keys and values rests on. Batches need a `list_len`.

Where the paper leaves things open, or this differs from it:

* The first of L layers shrinks already: layer l hands on S (L - l) / L of the S tokens, rounded up, and the last none. That is
  one reading of "linearly from 1190 to 12"; nothing is rounded to multiples of 32.
* All kinds of events come in one sequence, ordered by time, their kind a feature. They carry no time of their own, so a learned
  table by recency is added.
* In the last layer S tokens and the request's NS tokens give keys and values only; nothing reads more of them.
* Unstated: the FFN's width and activation, the tokenisers' depth, what the head reads (here all of a candidate's own tokens).
* Products of queries and keys are scaled by `score_scale`, so that one learning rate serves a ladder.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from unisc.data.features import Batch, FeatureSpec
from unisc.dims import Logits, Rows
from unisc.errors import InputError
from unisc.models.checks import check_fields, check_multiples
from unisc.models.counts import FlopCount, ParamCount, mlp_flops, mlp_params
from unisc.nn.attention import BLOCKED, masked_attention, score_scale
from unisc.nn.embedding import concat_fields, lookup
from unisc.nn.linear import RELU_GAIN, Linear, TypedLinear, start_bias
from unisc.nn.mlp import MLP, JointMLP, TypedMLP
from unisc.nn.norm import rms_norm
from unisc.nn.recompute import recompute
from unisc.nn.slots import Context, Slots

HEAD_GAIN = 0.1  # logits start near their bias

RUNGS = {"xxs": 4, "xs": 8, "s": 14, "m": 20, "l": 28, "xl": 40, "xxl": 60}
"""Width at each size."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OneTransConfig:
    """Width and depth; `num_tokens` NS tokens in all, the first `num_request_tokens` of them the request's if "shared".

    Without `pyramid` all S tokens keep their queries, but for the last layer, whose S tokens nothing reads.
    """

    embed_dim: int
    dim: int
    num_layers: int
    num_heads: int
    num_tokens: int
    num_request_tokens: int = 0
    ffn_multiplier: int = 2
    token_multiplier: int = 2
    pyramid: bool = True
    context: Context = "joint"

    def __post_init__(self) -> None:
        check_fields(self, least={"num_request_tokens": 0})
        check_multiples(self, dim="num_heads")
        if self.num_request_tokens >= self.num_tokens:
            raise InputError(
                f"num_request_tokens: {self.num_request_tokens} leaves a candidate none of num_tokens={self.num_tokens}"
            )

    @property
    def split(self) -> tuple[int, int]:
        """NS tokens of a request and of a candidate."""
        of_request = self.num_request_tokens if self.context == "shared" else 0
        return of_request, self.num_tokens - of_request

    def lengths(self, history_len: int) -> list[int]:
        """Return how many S tokens enter each layer, and how many leave the last."""
        depth = self.num_layers
        if not self.pyramid:
            return [history_len] * depth + [0]
        return [-(-history_len * (depth - layer) // depth) for layer in range(depth + 1)]


class Tokens(NamedTuple):
    """The three streams: S tokens and request tokens in K rows, and candidates' own tokens."""

    history: Float[Array, "K S D"]
    request: Float[Array, "Tr K D"]
    own: Float[Array, "Tc B D"]


class Stream(nnx.Module):
    """A layer's parameters for tokens of `num_types` types; without `reads` they are only read from."""

    def __init__(self, num_types: int, config: OneTransConfig, *, reads: bool, rngs: nnx.Rngs):
        dim, gain = config.dim, config.num_layers**-0.5
        self.keys_values = TypedLinear(num_types, dim, 2 * dim, bias=False, rngs=rngs)
        self.queries = TypedLinear(num_types, dim, dim, bias=False, rngs=rngs) if reads else None
        self.out = TypedLinear(num_types, dim, dim, bias=False, gain=gain, rngs=rngs) if reads else None
        self.ffn = TypedMLP(num_types, dim, config.ffn_multiplier * dim, gain=gain, rngs=rngs) if reads else None

    def ask(self, x: Float[Array, "T B D"]) -> Float[Array, "T B D"]:
        """Return the queries of tokens already normalised."""
        assert self.queries is not None
        return self.queries(x)

    def finish(self, x: Float[Array, "T B D"], seen: Float[Array, "T B D"]) -> Float[Array, "T B D"]:
        """Add what attention brought, then the FFN's output."""
        assert self.out is not None and self.ffn is not None
        x = x + self.out(seen)
        return x + self.ffn(rms_norm(x))


class OneTransLayer(nnx.Module):
    """A block in which S tokens share parameters and every NS token has its own; `keep` S tokens leave it."""

    def __init__(self, config: OneTransConfig, *, enter: int, keep: int, last: bool, rngs: nnx.Rngs):
        of_request, of_candidate = config.split
        self.num_heads, self.keep, self.last = config.num_heads, keep, last
        self.scale = score_scale(config.dim // config.num_heads)
        self.history = Stream(1, config, reads=not last, rngs=rngs) if enter else None
        self.request = Stream(of_request, config, reads=not last, rngs=rngs) if of_request else None
        self.own = Stream(of_candidate, config, reads=True, rngs=rngs)

    def __call__(self, x: Tokens, mask: Bool[Array, "K S"], slots: Slots) -> Tokens:
        """Return what the layer hands on; `mask` tells the real S tokens that enter it."""
        normed = Tokens(*(rms_norm(stream) for stream in x))
        keys, values = self._context(normed)
        known = jnp.pad(mask, ((0, 0), (0, x.request.shape[0])), constant_values=True)
        own = self.own.finish(x.own, self._own_attention(normed.own, keys, values, known, slots))
        if self.last:
            return x._replace(history=x.history[:, :0], own=own)
        dropped = x.history.shape[1] - self.keep
        asked = []
        if self.history is not None:
            asked.append(_unflatten(self.history.ask(_flatten(normed.history[:, dropped:])), len(mask)))
        if self.request is not None:
            asked.append(self.request.ask(normed.request).swapaxes(0, 1))
        if not asked:
            return x._replace(own=own)
        queries = self._heads(jnp.concatenate(asked, axis=1)) * self.scale
        places = np.arange(keys.shape[1])
        asking = places[dropped:, None]
        visible = (places <= asking) & known[:, None] | (places == asking)  # itself always: padding must see something
        seen = masked_attention(queries, keys, values, jnp.where(visible, 0.0, BLOCKED).astype(queries.dtype))
        seen = seen.reshape(len(mask), -1, x.own.shape[-1])
        history, request = x.history[:, dropped:], x.request
        if self.history is not None:
            history = _unflatten(self.history.finish(_flatten(history), _flatten(seen[:, : self.keep])), len(mask))
        if self.request is not None:
            request = self.request.finish(request, seen[:, self.keep :].swapaxes(0, 1))
        return Tokens(history, request, own)

    def _context(self, x: Tokens) -> tuple[Float[Array, "K T N H"], Float[Array, "K T N H"]]:
        """Return keys and values of the S tokens and the request's tokens, in this order."""
        rows, _, dim = x.history.shape
        parts = [jnp.zeros((rows, 0, 2 * dim), x.history.dtype)]
        if self.history is not None:
            parts.append(_unflatten(self.history.keys_values(_flatten(x.history)), rows))
        if self.request is not None:
            parts.append(self.request.keys_values(x.request).swapaxes(0, 1))
        keys, values = jnp.split(jnp.concatenate(parts, axis=1), 2, axis=-1)
        return self._heads(keys), self._heads(values)

    def _own_attention(
        self,
        x: Float[Array, "Tc B D"],
        keys: Float[Array, "K T N H"],
        values: Float[Array, "K T N H"],
        known: Bool[Array, "K T"],
        slots: Slots,
    ) -> Float[Array, "Tc B D"]:
        """Let a candidate's tokens see their context and those of themselves that do not come later."""
        of_own = jnp.concatenate([self.own.ask(x), self.own.keys_values(x)], axis=-1).swapaxes(0, 1)
        q, k, v = (self._heads(part) for part in jnp.split(slots.spread(of_own), 3, axis=-1))
        to_context = jnp.einsum("kcqnh,ktnh->kncqt", q, keys)
        to_own = jnp.einsum("kcqnh,kcsnh->kncqs", q, k)
        visible = np.tri(len(x), dtype=bool)
        scores = jnp.concatenate(
            [jnp.where(known[:, None, None, None], to_context, BLOCKED), jnp.where(visible, to_own, BLOCKED)], axis=-1
        )
        on_context, on_own = jnp.split(jax.nn.softmax(scores * self.scale, axis=-1), [keys.shape[1]], axis=-1)
        seen = jnp.einsum("kncqt,ktnh->kcqnh", on_context, values) + jnp.einsum("kncqs,kcsnh->kcqnh", on_own, v)
        return slots.collect(seen.reshape(*seen.shape[:3], x.shape[-1])).swapaxes(0, 1)

    def _heads(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch N H"]:
        return x.reshape(*x.shape[:-1], self.num_heads, x.shape[-1] // self.num_heads)


def _flatten(x: Float[Array, "K S D"]) -> Float[Array, "1 K*S D"]:
    """Lay all rows end to end, as tokens of one type."""
    return x.reshape(1, x.shape[0] * x.shape[1], x.shape[2])


def _unflatten(x: Float[Array, "1 KS D"], num_rows: int) -> Float[Array, "K S D"]:
    """Undo `_flatten`."""
    return x.reshape(num_rows, x.shape[1] // num_rows, x.shape[2])


class OneTrans(nnx.Module):
    """The whole ranker: `model(rows, batch)` gives one logit a candidate and task; `bias_init` as in HHSFT.

    Raises InputError for `context` "shared" and a batch without lists.
    """

    def __init__(self, config: OneTransConfig, spec: FeatureSpec, *, rngs: nnx.Rngs, bias_init: Sequence[float] = ()):
        self.config, self.spec = config, spec
        dim, hidden = config.dim, config.token_multiplier * config.dim
        of_request, of_candidate = config.split
        request, candidate, event = input_widths(config, spec)
        history_len = spec.history_len if event else 0
        self.event = MLP(event, hidden, dim, rngs=rngs) if history_len else None
        self.recency = nnx.Param(jnp.zeros((history_len, dim))) if history_len else None
        self.request = JointMLP(request, 0, hidden, of_request * dim, rngs=rngs) if of_request else None
        self.own = JointMLP(request, candidate, hidden, of_candidate * dim, rngs=rngs)
        lengths = config.lengths(history_len)
        self.layers = nnx.List(
            [
                OneTransLayer(config, enter=lengths[i], keep=lengths[i + 1], last=i == config.num_layers - 1, rngs=rngs)
                for i in range(config.num_layers)
            ]
        )
        self.head = Linear(of_candidate * dim, len(spec.tasks), gain=RELU_GAIN * HEAD_GAIN, rngs=rngs)
        if bias_init:
            start_bias(self.head.bias, bias_init)

    def __call__(self, rows: Rows, batch: Batch) -> Logits:
        """Score every candidate; `rows` are the embeddings of `batch.unique_rows`."""
        slots = Slots.of(self.config.context, batch.request_index, batch.lists)
        x, mask = self.tokens(rows, batch, slots)
        for layer in self.layers:
            mask = mask[:, mask.shape[1] - x.history.shape[1] :]
            x = recompute(OneTransLayer.__call__, layer, x, mask, slots)
        last = rms_norm(x.own).swapaxes(0, 1)
        return self.head(last.reshape(last.shape[0], last.shape[1] * last.shape[2]))

    def tokens(self, rows: Rows, batch: Batch, slots: Slots) -> tuple[Tokens, Bool[Array, "K S"]]:
        """Return all tokens, events from the oldest on, and which events are real."""
        of_request, of_candidate = self.config.split
        dim, num_requests = self.config.dim, batch.request_ids.shape[0]
        request = jnp.concatenate([concat_fields(lookup(rows, batch.request_ids)), batch.request_numeric], axis=-1)
        candidate = jnp.concatenate([concat_fields(lookup(rows, batch.candidate_ids)), batch.candidate_numeric], axis=-1)
        history, mask = jnp.zeros((num_requests, 0, dim), rows.dtype), batch.history_mask[:, :0]
        if self.event is not None and self.recency is not None:
            events = self.event(concat_fields(lookup(rows, batch.history_ids))) + self.recency[...]
            history, mask = events[:, ::-1], batch.history_mask[:, ::-1]
        of_requests = jnp.zeros((of_request, num_requests, dim), rows.dtype)
        if self.request is not None:
            of_requests = self.request(request, request[:, :0], jnp.arange(num_requests))
            of_requests = of_requests.reshape(num_requests, of_request, dim).swapaxes(0, 1)
        own = self.own(request, candidate, batch.request_index)
        own = own.reshape(own.shape[0], of_candidate, dim).swapaxes(0, 1)
        return Tokens(slots.of_request(history), of_requests, own), slots.of_request(mask)


def input_widths(config: OneTransConfig, spec: FeatureSpec) -> tuple[int, int, int]:
    """Return the widths of a request's features, of a candidate's and of an event's."""
    request, candidate, event = (len(spec.at(level)) * config.embed_dim for level in ("request", "candidate", "history"))
    return request + len(spec.numeric_at("request")), candidate + len(spec.numeric_at("candidate")), event


def num_params(config: OneTransConfig, spec: FeatureSpec) -> ParamCount:
    """Count parameters in closed form; every dense one is active."""
    dim, hidden = config.dim, config.token_multiplier * config.dim
    request, candidate, event = input_widths(config, spec)
    has_history = bool(event and spec.history_len)
    of_request, of_candidate = config.split
    tokens = mlp_params(event, hidden, dim) + spec.history_len * dim if has_history else 0
    for width, count in ((request, of_request), (request + candidate, of_candidate)):
        tokens += mlp_params(width, hidden, count * dim, outer_bias=True) if width and count else count * dim
    read_only = (has_history + of_request) * (token_params(config) - 2 * dim * dim)
    stack = config.num_layers * (has_history + config.num_tokens) * token_params(config) - read_only
    dense = tokens + stack + (of_candidate * dim + 1) * len(spec.tasks)
    return ParamCount(embedding=spec.num_rows * config.embed_dim, dense=dense, active=dense)


def token_params(config: OneTransConfig) -> int:
    """Return the parameters of one layer for one token type: queries, keys, values, output, FFN."""
    return 4 * config.dim**2 + mlp_params(config.dim, config.ffn_multiplier * config.dim, config.dim)


def flops_per_example(config: OneTransConfig, spec: FeatureSpec) -> FlopCount:
    """Count forward FLOPs a candidate and a request in closed form; attention costs as much in the empty slots of lists."""
    dim, hidden = config.dim, config.token_multiplier * config.dim
    request_width, candidate_width, event = input_widths(config, spec)
    history_len = spec.history_len if event else 0
    of_request, of_candidate = config.split
    request = history_len * mlp_flops(event, hidden, dim) + 2 * request_width * hidden
    if of_request and request_width:
        request += mlp_flops(request_width, hidden, of_request * dim)
    down = 2 * hidden * of_candidate * dim
    candidate = 2 * of_candidate * dim * len(spec.tasks)
    if candidate_width:
        candidate += 2 * candidate_width * hidden + down
    elif request_width:
        request += down
    context, lengths = 0, config.lengths(history_len)
    write, read = 4 * dim * dim, 4 * dim * dim + mlp_flops(dim, config.ffn_multiplier * dim, dim)
    for layer in range(config.num_layers):
        keys = lengths[layer] + of_request
        asking = lengths[layer + 1] + of_request if layer < config.num_layers - 1 else 0
        context += keys * write + asking * (read + 4 * keys * dim)
        candidate += of_candidate * (write + read + 4 * (keys + of_candidate) * dim)
    if config.context == "joint":
        return FlopCount(candidate=candidate + context, candidate_active=candidate + context, request=request)
    return FlopCount(candidate=candidate, candidate_active=candidate, request=request + context)


def ladder(*, embed_dim: int, context: Context = "joint", rungs: Mapping[str, int] = RUNGS) -> dict[str, OneTransConfig]:
    """Return the sizes by name, smallest first; dense parameters lie close to HHSFT's of the same name."""
    return {
        name: OneTransConfig(
            embed_dim=embed_dim, dim=dim, num_layers=3, num_heads=2, num_tokens=4, num_request_tokens=2, context=context
        )
        for name, dim in rungs.items()
    }


PUBLISHED = {
    "onetrans-s": OneTransConfig(
        embed_dim=16, dim=256, num_layers=6, num_heads=4, num_tokens=12, ffn_multiplier=5, context="shared"
    ),
    "onetrans-l": OneTransConfig(
        embed_dim=16, dim=384, num_layers=8, num_heads=4, num_tokens=16, ffn_multiplier=5, context="shared"
    ),
}
"""Sizes of the paper. Stated (as secondary notes give it): depth, width, heads, how many tokens the pyramid ends in (12 and 16,
the NS tokens), 91 and 330 million parameters, and 24 million for the smaller with one set of parameters for all tokens. Not
stated: the width of the FFN, the features and the tokenisers. 5 is the whole multiple that comes closest to the difference of
67 million between own and shared parameters; the width of embeddings is a stand-in."""
