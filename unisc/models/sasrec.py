"""SASRec: a causal transformer over the items a user took, one vector an item for reading and for scoring (arXiv 1808.09781).

    item vectors + place vectors -> dropout -> L x (attention, two-layer unit) -> norm -> inner product with item vectors

As published: learned places counted back from the last item, layer norms with gain and bias, dropout after each part, item
vectors shared by input and output. It differs in this: dropout is not on the attention weights but on what they read; heads are
a choice (published: 1); kernels follow `unisc.nn.linear`, so that one rate serves several widths. `norm` "pre" is the paper's
(section III-B), "post" that of BERT4Rec and many ports. With a vocabulary the mean of an item's words is added to its vector.

Rows may hold several users' sequences, told apart by `segment`: sequences are short, and padding would be most of the work.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from unisc.data.ragged import Ragged
from unisc.errors import InputError
from unisc.models.checks import check_fields, check_multiples
from unisc.models.counts import ParamCount
from unisc.nn.attention import BLOCKED, masked_attention, score_scale
from unisc.nn.linear import Linear, normal
from unisc.nn.norm import layer_norm

INIT_STD = 0.02
BASE_DIM = 64
"""Width at which scores are plain inner products; at others they are times BASE_DIM / width, as a kernel's output is."""
RELU_GAIN = 2**0.5
WIDTHS = (8, 16, 32)
"""Histories are encoded in rows of these lengths, then of `max_len`: most are short."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SASRecConfig:
    """Sizes; `vocab_size` 0 is without text. Published for Beauty: dim 50, 2 layers, 1 head, ffn_hidden 50, max_len 50."""

    num_items: int
    dim: int
    num_layers: int
    num_heads: int
    ffn_hidden: int
    max_len: int = 50
    dropout: float = 0.5
    norm: Literal["pre", "post"] = "pre"
    vocab_size: int = 0

    def __post_init__(self) -> None:
        check_fields(self, least={"vocab_size": 0})
        check_multiples(self, dim="num_heads")
        if not self.dropout < 1:
            raise InputError(f"dropout {self.dropout}: give a share below 1")


class ItemText(NamedTuple):
    """All items' tokens end to end, the item of each in order, and one over the number of each item's tokens (0 for none)."""

    tokens: Int[Array, "n"]
    item: Int[Array, "n"]
    share: Float[Array, "I"]

    @classmethod
    def of(cls, text: Ragged, *, vocab_size: int) -> "ItemText":
        """Lay out a catalogue's texts. Raises InputError for a token that the vocabulary does not have."""
        tokens, lengths = np.asarray(text.values, np.int32), text.lengths
        if tokens.max(initial=0) >= vocab_size:
            raise InputError(f"vocab_size {vocab_size}: the texts hold token {tokens.max()}; give the tokenizer's size")
        item = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        share = np.where(lengths > 0, 1.0 / np.maximum(lengths, 1), 0.0).astype(np.float32)
        return cls(tokens=jnp.asarray(tokens), item=jnp.asarray(item), share=jnp.asarray(share))


class LayerNorm(nnx.Module):
    """Layer norm with gain and bias."""

    def __init__(self, dim: int):
        self.gain, self.bias = nnx.Param(jnp.ones((dim,), jnp.float32)), nnx.Param(jnp.zeros((dim,), jnp.float32))

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        """Normalise the last axis."""
        return layer_norm(x) * self.gain[...] + self.bias[...]


class Block(nnx.Module):
    """Attention, then the two-layer unit, each added to its input through dropout."""

    def __init__(self, config: SASRecConfig, *, rngs: nnx.Rngs):
        dim, gain = config.dim, config.num_layers**-0.5
        self.config = config
        self.qkv = Linear(dim, 3 * dim, rngs=rngs)
        self.out = Linear(dim, dim, gain=gain, rngs=rngs)
        self.up = Linear(dim, config.ffn_hidden, rngs=rngs)
        self.down = Linear(config.ffn_hidden, dim, gain=RELU_GAIN * gain, rngs=rngs)
        self.norms = nnx.List([LayerNorm(dim), LayerNorm(dim)])
        self.dropout = nnx.Dropout(config.dropout, rngs=rngs)

    def __call__(self, x: Float[Array, "B T D"], blocked: Float[Array, "B T T"]) -> Float[Array, "B T D"]:
        """Read rows of sequences."""
        for norm, part in zip(self.norms, (self._attend, self._unit), strict=True):
            if self.config.norm == "pre":
                x = x + self.dropout(part(norm(x), blocked))
            else:
                x = norm(x + self.dropout(part(x, blocked)))
        return x

    def _attend(self, x: Float[Array, "B T D"], blocked: Float[Array, "B T T"]) -> Float[Array, "B T D"]:
        split = (*x.shape[:2], self.config.num_heads, -1)
        q, k, v = (part.reshape(split) for part in jnp.split(self.qkv(x), 3, axis=-1))
        read = masked_attention(q * score_scale(q.shape[-1]), k, v, blocked)
        return self.out(read.reshape(x.shape))

    def _unit(self, x: Float[Array, "B T D"], blocked: Float[Array, "B T T"]) -> Float[Array, "B T D"]:
        return self.down(self.dropout(jax.nn.relu(self.up(x))))


class SASRec(nnx.Module):
    """`vectors = model.item_vectors(text)`, `hidden = model(vectors, items, place, segment)`, then `model.scores`."""

    def __init__(self, config: SASRecConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.items = nnx.Param(normal(rngs, (config.num_items, config.dim)) * INIT_STD)
        self.words = nnx.Param(normal(rngs, (config.vocab_size, config.dim)) * INIT_STD) if config.vocab_size else None
        self.places = nnx.Param(normal(rngs, (config.max_len, config.dim)) * INIT_STD)
        self.blocks = nnx.List([Block(config, rngs=rngs) for _ in range(config.num_layers)])
        self.norm = LayerNorm(config.dim) if config.norm == "pre" else None
        self.dropout = nnx.Dropout(config.dropout, rngs=rngs)

    def item_vectors(self, text: ItemText | None = None) -> Float[Array, "I D"]:
        """Return every item's vector; `text` where there is a vocabulary."""
        own = self.items[...]
        if self.words is None or text is None:
            return own
        read = self.words[...][text.tokens]
        means = jax.ops.segment_sum(read, text.item, self.config.num_items, indices_are_sorted=True) * text.share[:, None]
        return own + means.astype(own.dtype)

    def __call__(
        self,
        vectors: Float[Array, "I D"],
        items: Int[Array, "B T"],
        place: Int[Array, "B T"],
        segment: Int[Array, "B T"],
    ) -> Float[Array, "B T D"]:
        """Return what is known after each item of its sequence. Items of one `segment` of a row see those before them.

        `place` is the index of a place's vector: max_len - 1 for the last item of a sequence.
        """
        x = vectors[items] * self.config.dim**0.5 + self.places[...][place].astype(vectors.dtype)
        x = self.dropout(x)
        same = (segment[:, :, None] == segment[:, None]) & jnp.tril(jnp.ones((items.shape[1],) * 2, bool))
        blocked = jnp.where(same, 0.0, BLOCKED).astype(x.dtype)
        for block in self.blocks:
            x = block(x, blocked)
        return x if self.norm is None else self.norm(x)

    def scores(self, hidden: Float[Array, "*batch D"], vectors: Float[Array, "I D"]) -> Float[Array, "*batch I"]:
        """Return the score of every item given."""
        return jnp.einsum("...d,id->...i", hidden, vectors) * self.scale

    @property
    def scale(self) -> float:
        """What inner products are multiplied by."""
        return BASE_DIM / self.config.dim


def encode(
    model: SASRec, histories: Ragged, text: ItemText | None = None, *, block: int = 512
) -> tuple[Float[np.ndarray, "N D"], Float[np.ndarray, "I D"]]:
    """Return a query for each history, its last `max_len` items read, and every item's vector; the zero vector for no history.

    `model` in eval mode, else dropout applies. Rows go in blocks of a few lengths, so that little is padding.
    """
    config, (graphdef, state) = model.config, nnx.split(model)
    vectors = jax.jit(lambda state, text: nnx.merge(graphdef, state).item_vectors(text))(state, text)

    @jax.jit
    def last(
        state: Any, vectors: Float[Array, "I D"], items: Int[Array, "B T"], lengths: Int[Array, "B"]
    ) -> Float[Array, "B D"]:
        at = jnp.arange(items.shape[1])[None]
        place = jnp.clip(config.max_len - lengths[:, None] + at, 0, config.max_len - 1)
        hidden = nnx.merge(graphdef, state)(vectors, items, place, jnp.where(at < lengths[:, None], 0, -1))
        return jnp.take_along_axis(hidden, jnp.maximum(lengths - 1, 0)[:, None, None], axis=1)[:, 0]

    lengths = np.minimum(histories.lengths, config.max_len).astype(np.int32)
    out, shorter = np.zeros((len(lengths), config.dim), np.float32), 0
    for width in (*(w for w in WIDTHS if w < config.max_len), config.max_len):
        rows = np.flatnonzero((lengths > shorter) & (lengths <= width))
        for start in range(0, len(rows), block):
            own = rows[start : start + block]
            items, kept = np.zeros((block, width), np.int32), np.zeros(block, np.int32)
            items[: len(own)], kept[: len(own)] = histories.padded(own, config.max_len, keep="last")[0][:, :width], lengths[own]
            out[own] = np.asarray(last(state, vectors, items, kept))[: len(own)]
        shorter = width
    return out, np.asarray(vectors)


def num_params(config: SASRecConfig) -> ParamCount:
    """Count parameters in closed form; vectors of items, words and places are the embedding."""
    dim, hidden = config.dim, config.ffn_hidden
    block = (3 * dim * dim + 3 * dim) + (dim * dim + dim) + (dim * hidden + hidden) + (hidden * dim + dim) + 4 * dim
    dense = config.num_layers * block + (2 * dim if config.norm == "pre" else 0)
    return ParamCount(embedding=(config.num_items + config.vocab_size + config.max_len) * dim, dense=dense, active=dense)


def flops_per_place(config: SASRecConfig, *, num_scored: int, row_len: int | None = None) -> int:
    """Count forward FLOPs of one place of a row of `row_len`, scored against so many items: matrix products alone.

    Attention is counted as it runs, over the whole row. The mean of the words, additions alone, is not counted.
    """
    dim, length = config.dim, config.max_len if row_len is None else row_len
    block = 2 * dim * 4 * dim + 4 * length * dim + 4 * dim * config.ffn_hidden
    return config.num_layers * block + 2 * dim * num_scored
