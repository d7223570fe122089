"""KARMA: the interest of a user, read by a language model off a query and a history (arXiv 2603.22779).

    <begin> <query> query tokens <history> item soft tokens, oldest first <interest> | text of the wanted item

An item enters as `item_tokens` vectors made of its frozen features, leaves as a unit vector of its own; the interest is the
unit vector read at <interest>. `Karma` is what serves. `KarmaHeads` are needed for training alone: they turn an interest into
the prefix that the same decoder has to reconstruct the item's text from, and into the item's picture. Sizes that the paper does
not give (tokens an item, prefix, hidden widths) are ours.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from unisc.data.text import BEGIN, HISTORY, INTEREST, QUERY, TEXT
from unisc.models.checks import check_fields
from unisc.models.counts import ParamCount, mlp_flops, mlp_params
from unisc.models.decoder import Decoder, DecoderConfig
from unisc.models.decoder import flops_per_token as decoder_flops
from unisc.models.decoder import num_params as decoder_params
from unisc.nn.linear import Linear
from unisc.nn.mlp import MLP
from unisc.nn.norm import unit_norm


@dataclass(frozen=True, kw_only=True, slots=True)
class KarmaConfig:
    """Sizes: F frozen features an item, E entries of interests and item vectors, and of a picture to reconstruct, or 0."""

    decoder: DecoderConfig
    feature_dim: int
    embed_dim: int
    hidden_dim: int
    item_tokens: int = 1
    prefix_tokens: int = 4
    visual_dim: int = 0

    def __post_init__(self) -> None:
        check_fields(self, least={"visual_dim": 0})


class Context(NamedTuple):
    """What is known of a user when the page is asked for: a query, padded, and the features of a history, oldest first."""

    query: Int[Array, "B Q"]
    query_mask: Bool[Array, "B Q"]
    history: Float[Array, "B S F"]
    history_mask: Bool[Array, "B S"]


class Read(NamedTuple):
    """The unit vector of an interest, and what the decoder gives at <interest> and at the answer's tokens after it."""

    interest: Float[Array, "B E"]
    answer: Float[Array, "B A D"]


class Karma(nnx.Module):
    """`interest = model(context)`, `vectors = model.item(features)`; the score of a pair is their inner product."""

    def __init__(self, config: KarmaConfig, *, rngs: nnx.Rngs):
        self.config, dim = config, config.decoder.dim
        self.decoder = Decoder(config.decoder, rngs=rngs)
        self.soft = MLP(config.feature_dim, config.hidden_dim, config.item_tokens * dim, rngs=rngs)
        self.interest = Linear(dim, config.embed_dim, bias=False, rngs=rngs)
        self.own = MLP(config.feature_dim, config.hidden_dim, config.embed_dim, rngs=rngs)

    def __call__(self, context: Context) -> Float[Array, "B E"]:
        """Return unit vectors of interests."""
        return self.read(context).interest

    def item(self, features: Float[Array, "*batch F"]) -> Float[Array, "*batch E"]:
        """Return unit vectors of items."""
        return unit_norm(self.own(features))

    def read(
        self, context: Context, answer: Int[Array, "B A"] | None = None, answer_mask: Bool[Array, "B A"] | None = None
    ) -> Read:
        """Read contexts, and after <interest> the tokens of an answer, which sees all that stands before it."""
        x, valid = self.sequence(context)
        at = x.shape[1] - 1
        if answer is not None and answer_mask is not None:
            x = jnp.concatenate([x, self.decoder.embed(answer)], axis=1)
            valid = jnp.concatenate([valid, answer_mask], axis=1)
        hidden = self.decoder(x, valid)
        return Read(unit_norm(self.interest(hidden[:, at])), hidden[:, at:])

    def sequence(self, context: Context) -> tuple[Float[Array, "B T D"], Bool[Array, "B T"]]:
        """Return the decoder's inputs, <interest> last, and which are real."""
        rows, dim = len(context.query), self.config.decoder.dim
        marks = self.decoder.embed(jnp.broadcast_to(jnp.array([BEGIN, QUERY, HISTORY, INTEREST]), (rows, 4)))
        items = self.soft_tokens(context.history).reshape(rows, -1, dim)
        words = self.decoder.embed(context.query)
        x = jnp.concatenate([marks[:, :2], words, marks[:, 2:3], items.astype(words.dtype), marks[:, 3:]], axis=1)
        present = jnp.repeat(context.history_mask, self.config.item_tokens, axis=1)
        ones = jnp.ones((rows, 1), bool)
        return x, jnp.concatenate([ones, ones, context.query_mask, ones, present, ones], axis=1)

    def soft_tokens(self, features: Float[Array, "B S F"]) -> Float[Array, "B S D"]:
        """Return what stands for items among the decoder's inputs, `item_tokens` vectors each side by side, in its scale."""
        return self.soft(features) * _scale(self.decoder).astype(features.dtype)

    def slots(self, query_len: int, history_len: int) -> Int[Array, "S"]:
        """Return where in a sequence each item's last soft token stands."""
        return 3 + query_len + self.config.item_tokens * (jnp.arange(history_len) + 1) - 1


class KarmaHeads(nnx.Module):
    """What training alone needs: an interest as a prefix of a text, and as a picture."""

    def __init__(self, config: KarmaConfig, *, rngs: nnx.Rngs):
        self.config, dim = config, config.decoder.dim
        self.prefix = MLP(config.embed_dim, config.hidden_dim, config.prefix_tokens * dim, rngs=rngs)
        self.visual = MLP(config.embed_dim, config.hidden_dim, config.visual_dim, rngs=rngs) if config.visual_dim else None

    def reconstruct(
        self, decoder: Decoder, interest: Float[Array, "B E"], answer: Int[Array, "B A"], answer_mask: Bool[Array, "B A"]
    ) -> Float[Array, "B A1 D"]:
        """Return what the decoder gives at <text> and at the answer's tokens, having seen nothing else but the interest.

        Interests come as unit vectors; their entries are scaled to unit size first.
        """
        wide = interest * jnp.asarray(self.config.embed_dim**0.5, interest.dtype)
        prefix = (self.prefix(wide) * _scale(decoder).astype(interest.dtype)).reshape(
            len(interest), -1, self.config.decoder.dim
        )
        words = decoder.embed(jnp.concatenate([jnp.full_like(answer[:, :1], TEXT), answer], axis=1))
        x = jnp.concatenate([prefix.astype(words.dtype), words], axis=1)
        valid = jnp.concatenate([jnp.ones((len(x), prefix.shape[1] + 1), bool), answer_mask], axis=1)
        return decoder(x, valid)[:, prefix.shape[1] :]

    def picture(self, interest: Float[Array, "B E"]) -> Float[Array, "B P"]:
        """Return the picture's vector that an interest foresees."""
        assert self.visual is not None
        return self.visual(interest * jnp.asarray(self.config.embed_dim**0.5, interest.dtype))


class KarmaTrainee(nnx.Module):
    """Both, as they are trained together."""

    def __init__(self, config: KarmaConfig, *, rngs: nnx.Rngs):
        self.serve = Karma(config, rngs=rngs)
        self.heads = KarmaHeads(config, rngs=rngs)


def _scale(decoder: Decoder) -> Float[Array, ""]:
    """Return the root mean square of the decoder's token vectors, which is not trained by way of this."""
    return jax.lax.stop_gradient(jnp.sqrt(jnp.mean(jnp.square(decoder.embedding[...].astype(jnp.float32)))))


def num_params(config: KarmaConfig) -> ParamCount:
    """Count what serves; the heads are `num_head_params` more while training."""
    decoder, dim = decoder_params(config.decoder), config.decoder.dim
    dense = decoder.dense + dim * config.embed_dim
    dense += mlp_params(config.feature_dim, config.hidden_dim, config.item_tokens * dim)
    dense += mlp_params(config.feature_dim, config.hidden_dim, config.embed_dim)
    return ParamCount(embedding=decoder.embedding, dense=dense, active=dense)


def num_head_params(config: KarmaConfig) -> int:
    """Count the heads' parameters."""
    prefix = mlp_params(config.embed_dim, config.hidden_dim, config.prefix_tokens * config.decoder.dim)
    return prefix + (mlp_params(config.embed_dim, config.hidden_dim, config.visual_dim) if config.visual_dim else 0)


def flops_per_example(
    config: KarmaConfig, *, query_len: int, history_len: int, answer_len: int, num_shown: int, has_gen: bool, has_rec: bool
) -> int:
    """Count forward FLOPs of a training example in closed form: matrix products of padded sequences, each token seeing all.

    Vectors of its own item and of `num_shown` others are made; in-batch products are not counted.
    """
    length = 4 + query_len + config.item_tokens * history_len
    whole = length + (answer_len if has_gen else 0)
    flops = whole * decoder_flops(config.decoder, context=whole, with_logits=False)
    flops += history_len * mlp_flops(config.feature_dim, config.hidden_dim, config.item_tokens * config.decoder.dim)
    flops += (1 + num_shown) * mlp_flops(config.feature_dim, config.hidden_dim, config.embed_dim)
    flops += 2 * config.decoder.dim * config.embed_dim
    head = 2 * config.decoder.dim * config.decoder.vocab_size * (answer_len + 1)
    if has_gen:
        flops += head
    if has_rec:
        read = config.prefix_tokens + 1 + answer_len
        flops += read * decoder_flops(config.decoder, context=read, with_logits=False) + head
        flops += mlp_flops(config.embed_dim, config.hidden_dim, config.prefix_tokens * config.decoder.dim)
    if config.visual_dim:
        flops += mlp_flops(config.embed_dim, config.hidden_dim, config.visual_dim)
    return flops
