"""HSTU, the hierarchical sequential transduction unit (arXiv 2402.17152, section 3), as a ranker of candidates.

    [U, Q, V, K] = SiLU(LN(X) W)          W is (d, 2 H d_v + 2 H d_qk)
    A = SiLU(Q K^T + rab) / n             no softmax; n is the padded length
    X <- X + (LN(A V) * U) W_o + b        no FFN

`rab` adds a table by distance in the sequence and a table by logarithm of the time between two events. A sequence is
[context, history from the oldest event on, candidate]. Context tokens (one a feature group of the request) see each other, an
event sees the context and what came before it, a candidate sees all of that and itself, never another candidate ("M-FALCON",
section 3.4). Nothing that a candidate sees depends on a candidate, so `context` "joint" (every candidate with its own copy of
the sequence) and "shared" (the sequence once a request; batches need a `list_len`) give the same scores at different cost.

Where this differs from the paper and its code (github.com/meta-recsys/generative-recommenders, modeling/sequential/hstu.py):

* An event is one token, the sum of projections of the item and of what was done with it, not two interleaved ones, which halves
  the sequence (as in GenRank). The loss is on candidates only, and no events are left out at random.
* Products of queries and keys are scaled by the width (`score_scale`), so that one learning rate serves a ladder.
* The time table is read at ages that are already logarithmic buckets, one an octave of seconds (`gap_ids`); the code takes
  exact times and buckets of ln(gap) / 0.301. Where a spec has no field `age_field`, there is no time table.
* Distances count both ways alike; only context tokens, which have no order, look at later ones.
* The last layer computes no context outputs, which nothing would read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from unisc.data.features import GROUPS, Batch, FeatureSpec
from unisc.dims import Logits, Rows
from unisc.errors import InputError
from unisc.models.checks import check_fields
from unisc.models.counts import FlopCount, ParamCount, mlp_flops, mlp_params
from unisc.models.inputs import group_inputs, group_widths
from unisc.nn.attention import score_scale
from unisc.nn.embedding import concat_fields, lookup
from unisc.nn.linear import RELU_GAIN, Linear, bias_init, product, start_bias
from unisc.nn.mlp import MLP, JointMLP
from unisc.nn.norm import layer_norm
from unisc.nn.recompute import recompute
from unisc.nn.slots import Context, Slots

HEAD_GAIN = 0.1  # logits start near their bias
AGE_FIELD = "history_age"
AGE_NOW = 1  # id of the bucket that an age of zero seconds falls into

RUNGS = {"xxs": 8, "xs": 12, "s": 28, "m": 40, "l": 56, "xl": 80, "xxl": 128}
"""Width at each size."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HSTUConfig:
    """Width and depth; `qk_dim` and `v_dim` are widths of one head.

    `age_field` names the history field whose ids are 1 + floor(log2(age in seconds + 1)), the last of its table for all beyond,
    0 where unknown; an empty name gives no time table. They are read off the batch's rows of the store, so a model of hashed
    tables needs the spec of the tables as stored (`RowMap.spec`).
    """

    embed_dim: int
    dim: int
    num_layers: int
    num_heads: int
    qk_dim: int
    v_dim: int
    token_multiplier: int = 2
    context: Context = "joint"
    age_field: str = AGE_FIELD

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def widths(self) -> tuple[int, int, int, int]:
        """Widths of U, Q, V and K, the columns of W."""
        qk, v = self.num_heads * self.qk_dim, self.num_heads * self.v_dim
        return v, qk, v, qk


class Shape(NamedTuple):
    """What of a sequence the features decide: tokens of the context, events of the history, and ids of an event's age."""

    num_context: int
    history_len: int
    num_ages: int

    @classmethod
    def of(cls, config: HSTUConfig, spec: FeatureSpec) -> "Shape":
        tables = {table.name: table for table in spec.tables}
        found = [tables[field.table] for field in spec.at("history") if field.name == config.age_field]
        for table in found:
            if table.hashed:
                raise InputError(
                    f"hash_rows {table.num_rows}: hashes table {table.name}, which HSTU reads as times; give more rows, or 0"
                )
        names = [field.name for field in spec.at("history")]
        if names and not found and config.age_field not in ("", AGE_FIELD):
            raise InputError(
                f"age_field {config.age_field!r}: not a history field; give one of {', '.join(names)}, or '' for none"
            )
        ages = [table.num_rows for table in found]
        history_len = spec.history_len if spec.at("history") else 0
        groups = sum(group_widths(spec, group, config.embed_dim)[0] > 0 for group in GROUPS)
        return cls(groups, history_len, ages[0] if ages and history_len and ages[0] > AGE_NOW else 0)

    @property
    def before(self) -> int:
        """Tokens that come before the candidate."""
        return self.num_context + self.history_len

    @property
    def length(self) -> int:
        """The padded length, n."""
        return self.before + 1

    def visible(self) -> Bool[np.ndarray, "T T"]:
        """Return which earlier token (column) each token (row) may see."""
        places = np.arange(self.before)
        return (places <= places[:, None]) | (np.maximum(places, places[:, None]) < self.num_context)


class Prefix(NamedTuple):
    """What comes before a candidate, in K rows; `ages` are one-hot ids, of width 0 where none are known."""

    tokens: Float[Array, "K T D"]
    mask: Bool[Array, "K T"]
    ages: Float[Array, "K S A"]


class HSTULayer(nnx.Module):
    """One unit; the same parameters serve what comes before the candidates and the candidates."""

    def __init__(self, config: HSTUConfig, shape: Shape, *, last: bool, rngs: nnx.Rngs):
        self.config, self.shape, self.last = config, shape, last
        self.scale = score_scale(config.qk_dim)
        self.uqvk = Linear(config.dim, sum(config.widths), bias=False, rngs=rngs)
        gain = config.num_layers**-0.5
        self.out = Linear(config.num_heads * config.v_dim, config.dim, gain=gain, rngs=rngs)
        self.distance = bias_init((shape.length,))
        self.time = bias_init((shape.num_ages,)) if shape.num_ages else None

    def __call__(
        self, prefix: Prefix, candidate: Float[Array, "B D"], slots: Slots
    ) -> tuple[Float[Array, "K T D"], Float[Array, "B D"]]:
        """Return the next tokens of the context (unchanged by the last layer) and of the candidates."""
        x, mask, ages = prefix
        if self.last:
            k, v = self.keys_values(x)
        else:
            u, q, v, k = self.project(x)
            scores = jnp.einsum("kqnh,ktnh->knqt", q, k) * self.scale + self.prefix_bias(ages)[:, None]
            visible = mask[:, None, None] & self.shape.visible()
            seen = jnp.einsum("knqt,ktnh->kqnh", pointwise(scores, visible, self.shape.length), v)
            x = self.finish(x, seen, u)
        return x, self.candidates(candidate, k, v, mask, ages, slots)

    def candidates(
        self,
        x: Float[Array, "B D"],
        keys: Float[Array, "K T N H"],
        values: Float[Array, "K T N V"],
        mask: Bool[Array, "K T"],
        ages: Float[Array, "K S A"],
        slots: Slots,
    ) -> Float[Array, "B D"]:
        """Let every candidate see its own context and itself."""
        u, q, v, k = self.project(x)
        queries = slots.spread(q)
        if self.shape.before:
            scores = jnp.einsum("kcnh,ktnh->knct", queries, keys) * self.scale + self.candidate_bias(ages)[:, None, None]
            weights = pointwise(scores, mask[:, None, None], self.shape.length)
            seen = slots.collect(jnp.einsum("knct,ktnh->kcnh", weights, values))
        else:
            seen = jnp.zeros_like(v)
        itself = jnp.sum(q * k, axis=-1, keepdims=True) * self.scale + self.distance[0]
        if self.time is not None:
            itself = itself + self.time[AGE_NOW]
        return self.finish(x, seen + pointwise(itself, True, self.shape.length) * v, u)

    def project(self, x: Float[Array, "*batch D"]) -> list[Float[Array, "*batch N _"]]:
        """Return U, Q, V and K, split into heads."""
        parts = jnp.split(jax.nn.silu(self.uqvk(layer_norm(x))), np.cumsum(self.config.widths)[:-1], axis=-1)
        return [self._heads(part) for part in parts]

    def keys_values(self, x: Float[Array, "*batch D"]) -> tuple[Float[Array, "*batch N H"], Float[Array, "*batch N V"]]:
        """Return K and V alone, for tokens whose outputs nothing reads."""
        u, q, v, _ = self.config.widths
        kernel = self.uqvk.kernel[...][:, u + q :]
        y = jax.nn.silu(product(layer_norm(x), kernel) * self.uqvk.multiplier)
        return self._heads(y[..., v:]), self._heads(y[..., :v])

    def finish(
        self, x: Float[Array, "*batch D"], seen: Float[Array, "*batch N V"], gate: Float[Array, "*batch N V"]
    ) -> Float[Array, "*batch D"]:
        """Normalise what was seen over all heads, gate it, and add its projection."""
        flat = (*x.shape[:-1], seen.shape[-2] * seen.shape[-1])
        return x + self.out(layer_norm(seen.reshape(flat)) * gate.reshape(flat))

    def prefix_bias(self, ages: Float[Array, "K S A"]) -> Float[Array, "K T T"]:
        """Return `rab` among the tokens before a candidate; the time is known between events only."""
        places = np.arange(self.shape.before)
        bias = self.distance[...][np.abs(places[:, None] - places)][None]
        if self.time is None:
            return jnp.broadcast_to(bias, (ages.shape[0], *bias.shape[1:]))
        # One-hot products instead of a gather a pair, whose gradient would add row by row into a table of a few dozen entries.
        gaps = jnp.einsum("ksa,ab->ksb", ages, self.time[...][gap_ids(self.shape.num_ages)])
        pad = (self.shape.num_context, 0)
        return bias + jnp.pad(jnp.einsum("ksb,ktb->kst", gaps, ages), ((0, 0), pad, pad))

    def candidate_bias(self, ages: Float[Array, "K S A"]) -> Float[Array, "K T"]:
        """Return `rab` from a candidate, whose time is the request's, to each token before it."""
        bias = self.distance[...][np.arange(self.shape.before, 0, -1)][None]
        if self.time is None:
            return jnp.broadcast_to(bias, (ages.shape[0], *bias.shape[1:]))
        since = jnp.einsum("ksa,a->ks", ages, self.time[...][gap_ids(self.shape.num_ages)[AGE_NOW]])
        return bias + jnp.pad(since, ((0, 0), (self.shape.num_context, 0)))

    def _heads(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch N H"]:
        return x.reshape(*x.shape[:-1], self.config.num_heads, x.shape[-1] // self.config.num_heads)


def pointwise(scores: Float[Array, "*shape"], mask: Bool[Array, "*#shape"] | bool, length: int) -> Float[Array, "*shape"]:
    """Return the weights of pointwise attention, SiLU(scores) / length where `mask` holds and 0 elsewhere."""
    return jnp.where(mask, jax.nn.silu(scores) / length, 0.0)


def gap_ids(num_ages: int) -> Int[np.ndarray, "A A"]:
    """Return the id of the time between a later event (row) and an earlier one (column), each given by the id of its age.

    Ids are those of ages, 1 + floor(log2(seconds + 1)), and 0 where either age is unknown. An age stands for the least one of
    its bucket, so the time to the request keeps its bucket, and times within one bucket count as none.
    """
    seconds = np.exp2(np.arange(num_ages) - 1.0) - 1.0
    ids = 1 + np.floor(np.log2(np.abs(seconds[:, None] - seconds) + 1.0)).astype(np.int32)
    known = np.arange(num_ages) > 0
    return np.where(known[:, None] & known, ids, 0)


class HSTU(nnx.Module):
    """The whole ranker: `model(rows, batch)` gives one logit a candidate and task; `bias_init` as in HHSFT.

    Raises InputError for `context` "shared" and a batch without lists.
    """

    def __init__(self, config: HSTUConfig, spec: FeatureSpec, *, rngs: nnx.Rngs, bias_init: Sequence[float] = ()):
        self.config, self.spec, self.shape = config, spec, Shape.of(config, spec)
        hidden = config.token_multiplier * config.dim
        self.context = nnx.List([MLP(width, hidden, config.dim, rngs=rngs) for width in context_widths(config, spec)])
        width = len(spec.at("history")) * config.embed_dim
        self.history = Linear(width, config.dim, rngs=rngs) if self.shape.history_len else None
        self.candidate = JointMLP(0, candidate_width(config, spec), hidden, config.dim, rngs=rngs)
        self.layers = nnx.List(
            [HSTULayer(config, self.shape, last=i == config.num_layers - 1, rngs=rngs) for i in range(config.num_layers)]
        )
        self.head = Linear(config.dim, len(spec.tasks), gain=RELU_GAIN * HEAD_GAIN, rngs=rngs)
        if bias_init:
            start_bias(self.head.bias, bias_init)

    def __call__(self, rows: Rows, batch: Batch) -> Logits:
        """Score every candidate; `rows` are the embeddings of `batch.unique_rows`."""
        slots = Slots.of(self.config.context, batch.request_index, batch.lists)
        prefix = Prefix(*(slots.of_request(part) for part in self.prefix(rows, batch)))
        features = jnp.concatenate([concat_fields(lookup(rows, batch.candidate_ids)), batch.candidate_numeric], axis=-1)
        x = self.candidate(features[:, :0], features, jnp.arange(features.shape[0]))
        for layer in self.layers:
            tokens, x = recompute(HSTULayer.__call__, layer, prefix, x, slots)
            prefix = prefix._replace(tokens=tokens)
        return self.head(layer_norm(x))

    def prefix(self, rows: Rows, batch: Batch) -> Prefix:
        """Return the context and the history of every request, the oldest event first."""
        groups = [group for group in GROUPS if group_widths(self.spec, group, self.config.embed_dim)[0]]
        tokens = [
            mlp(group_inputs(self.spec, group, rows, batch).request)[:, None]
            for mlp, group in zip(self.context, groups, strict=True)
        ]
        num_requests = batch.request_ids.shape[0]
        mask = jnp.ones((num_requests, self.shape.num_context), bool)
        if self.history is not None:
            tokens.append(self.history(concat_fields(lookup(rows, batch.history_ids)))[:, ::-1])
            mask = jnp.concatenate([mask, batch.history_mask[:, ::-1]], axis=1)
        empty = jnp.zeros((num_requests, 0, self.config.dim), rows.dtype)
        return Prefix(jnp.concatenate([empty, *tokens], axis=1), mask, self.ages(batch).astype(rows.dtype))

    def ages(self, batch: Batch) -> Float[Array, "R S A"]:
        """Return the one-hot age ids of the events, the oldest first; all zero for an id that is not of the age's table."""
        if not self.shape.num_ages:
            return jnp.zeros((batch.history_mask.shape[0], self.shape.history_len, 0))
        column = [field.name for field in self.spec.at("history")].index(self.config.age_field)
        first = self.spec.table_offsets()[self.spec.at("history")[column].table]
        rows = batch.unique_rows
        if batch.row_parts is not None:  # of hashed tables; an age's is too small to be hashed, so its first part is its row
            rows = rows.at[batch.row_parts[:, 0]].get(mode="fill", fill_value=-1)
        ids = rows[batch.history_ids[:, ::-1, column]] - first
        return jax.nn.one_hot(ids, self.shape.num_ages, dtype=jnp.float32)


def context_widths(config: HSTUConfig, spec: FeatureSpec) -> list[int]:
    """Return the widths of the request's features by group, for groups that have some."""
    widths = [group_widths(spec, group, config.embed_dim)[0] for group in GROUPS]
    return [width for width in widths if width]


def candidate_width(config: HSTUConfig, spec: FeatureSpec) -> int:
    """Return the width of all of a candidate's own features."""
    return len(spec.at("candidate")) * config.embed_dim + len(spec.numeric_at("candidate"))


def num_params(config: HSTUConfig, spec: FeatureSpec) -> ParamCount:
    """Count parameters in closed form; every dense one is active."""
    shape, dim, hidden = Shape.of(config, spec), config.dim, config.token_multiplier * config.dim
    width = candidate_width(config, spec)
    tokens = mlp_params(width, hidden, dim, outer_bias=True) if width else dim
    tokens += sum(mlp_params(width, hidden, dim) for width in context_widths(config, spec))
    if shape.history_len:
        tokens += (len(spec.at("history")) * config.embed_dim + 1) * dim
    layer = unit_params(config) + shape.length + shape.num_ages
    dense = tokens + config.num_layers * layer + (dim + 1) * len(spec.tasks)
    return ParamCount(embedding=spec.num_rows * config.embed_dim, dense=dense, active=dense)


def unit_params(config: HSTUConfig) -> int:
    """Return the parameters of one unit without its bias tables: W, W_o and b."""
    return config.dim * sum(config.widths) + (config.num_heads * config.v_dim + 1) * config.dim


def unit_flops(config: HSTUConfig, length: int) -> tuple[int, int]:
    """Return the forward FLOPs of one unit on a sequence: of its linear maps and of attention, all pairs counted."""
    linear = 2 * length * config.dim * (sum(config.widths) + config.num_heads * config.v_dim)
    return linear, 2 * length * length * config.num_heads * (config.qk_dim + config.v_dim)


def flops_per_example(config: HSTUConfig, spec: FeatureSpec) -> FlopCount:
    """Count forward FLOPs a candidate and a request in closed form; attention costs as much in the empty slots of lists."""
    shape, dim, hidden = Shape.of(config, spec), config.dim, config.token_multiplier * config.dim
    width = candidate_width(config, spec)
    candidate = mlp_flops(width, hidden, dim) if width else 0
    request = sum(mlp_flops(width, hidden, dim) for width in context_widths(config, spec))
    request += 2 * shape.history_len * len(spec.at("history")) * config.embed_dim * dim
    own = sum(unit_flops(config, 1)[:1]) + 2 * shape.before * config.num_heads * (config.qk_dim + config.v_dim)
    candidate += config.num_layers * own + 2 * dim * len(spec.tasks)
    since = 2 * shape.history_len * shape.num_ages
    gaps = since * (shape.num_ages + shape.history_len)
    sequence = (config.num_layers - 1) * (sum(unit_flops(config, shape.before)) + gaps) + config.num_layers * since
    sequence += 2 * shape.before * dim * sum(config.widths[2:])
    if config.context == "joint":
        return FlopCount(candidate=candidate + sequence, candidate_active=candidate + sequence, request=request)
    return FlopCount(candidate=candidate, candidate_active=candidate, request=request + sequence)


def ladder(*, embed_dim: int, context: Context = "shared", rungs: Mapping[str, int] = RUNGS) -> dict[str, HSTUConfig]:
    """Return the sizes by name, smallest first; dense parameters lie close to HHSFT's of the same name.

    "shared" by default: other than in models whose context sees the candidate, it changes no score, and it encodes a sequence
    once a request instead of once a candidate. Batches need a `list_len`.
    """
    return {
        name: HSTUConfig(
            embed_dim=embed_dim, dim=dim, num_layers=4, num_heads=2, qk_dim=dim // 2, v_dim=dim // 2, context=context
        )
        for name, dim in rungs.items()
    }


def published(dim: int, num_layers: int, num_heads: int) -> HSTUConfig:
    """Return a size in which the heads of queries and of values make up the width, as in all published ones."""
    head = dim // num_heads
    return HSTUConfig(
        embed_dim=dim, dim=dim, num_layers=num_layers, num_heads=num_heads, qk_dim=head, v_dim=head, context="shared"
    )


PUBLISHED = {
    "ml-1m-large": published(50, 8, 2),
    "amzn-books-large": published(64, 16, 8),
    "mtgr-small": published(512, 3, 2),
    "mtgr-medium": published(768, 5, 3),
    "mtgr-large": published(768, 15, 3),
}
"""Sizes of the encoder: public configurations of the paper's code (configs/*/hstu-sampled-softmax-*-large-final.gin), and those
of MTGR (arXiv 2505.18654), whose stated GFLOP are the multiply-adds of 1000 tokens with the causal half of attention."""
