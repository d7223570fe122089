"""Two towers: users and items each become a unit vector, and what suits a user is what lies near (Yi et al., RecSys 2019).

    parts (id, text, image; history, query), each mapped to D and added -> residual perceptrons -> unit vector of D

An item is encoded once however many histories of a batch hold it: the item tower reads the distinct items of a batch, and the
user tower gathers their vectors. A user's history is averaged and mapped (SimpleX, arXiv 2109.12613, section 3.3) or read by a
small causal transformer whose last token, after the history and the query, is what the user is read at (as in SASRec, arXiv
1808.09781, but with a token of its own). Vectors of ids are rows of a table that is no part of the module: the loop's
row-sparse one (`unisc.train.encoder`), whose update costs by the rows a batch touches. With dense Adam on a table of its own
size, untouched rows would move, too, and a million of them would be a step's main cost.
"""

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from unisc.errors import InputError
from unisc.models.checks import check_fields
from unisc.models.counts import FlopCount, ParamCount, mlp_flops, mlp_params
from unisc.models.decoder import Decoder, DecoderConfig
from unisc.models.decoder import flops_per_token as decoder_flops
from unisc.models.decoder import num_params as decoder_params
from unisc.models.text_encoder import TextConfig, TextEncoder, flops_per_text
from unisc.models.text_encoder import num_params as text_params
from unisc.nn.embedding import masked_mean
from unisc.nn.linear import Linear
from unisc.nn.mlp import MLP
from unisc.nn.norm import rms_norm, unit_norm

UserFeature = Literal["id", "history", "query"]
ItemFeature = Literal["id", "text", "image"]
MAX_SCALE = 100.0
"""1 / temperature is learned up to here (CLIP, arXiv 2103.00020, section 2.5)."""
BIAS_START = -10.0
"""Of the sigmoid loss: nearly every pair of a batch is a negative (SigLIP, arXiv 2303.15343, section 3.2)."""
RESIDUAL_GAIN = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class TwoTowerConfig:
    """What each side reads, and the sizes; `widths` are the prefixes of `embed_dim` that are trained to serve alone.

    `temperature` and `learned_temperature` are of the softmax or, with `learned_bias`, of the sigmoid loss.
    `hidden_dims` are the hidden widths of each tower's residual perceptrons. With `text`, items and queries are read by it, by
    one encoder if `shared_text`. `history_layers` 0 averages the history; more are a transformer's.
    """

    embed_dim: int
    user_features: tuple[UserFeature, ...]
    item_features: tuple[ItemFeature, ...]
    hidden_dims: tuple[int, ...] = ()
    history_layers: int = 0
    history_heads: int = 2
    text: TextConfig | None = None
    shared_text: bool = True
    image_dim: int = 0
    widths: tuple[int, ...] = ()
    temperature: float = 0.1
    learned_temperature: bool = False
    learned_bias: bool = False

    def __post_init__(self) -> None:
        check_fields(self, least={"history_layers": 0, "image_dim": 0}, may_be_empty=("hidden_dims", "widths"))
        if max(self.widths, default=1) > self.embed_dim:
            raise InputError(f"widths {self.widths}: vectors have {self.embed_dim} entries; give widths up to that")
        if self.temperature < 1 / MAX_SCALE:
            raise InputError(f"temperature {self.temperature}: give at least {1 / MAX_SCALE}")
        if ("text" in self.item_features or "query" in self.user_features) != (self.text is not None):
            raise InputError("text: goes with text among item_features or query among user_features, and they with it")
        if ("image" in self.item_features) != (self.image_dim > 0):
            raise InputError(f"image_dim {self.image_dim}: goes with image among item_features; give both or neither")
        if self.history_layers and "history" not in self.user_features:
            raise InputError(
                f"history_layers {self.history_layers}: goes with history among user_features; give both or neither"
            )

    @property
    def prefixes(self) -> tuple[int, ...]:
        """The widths that are trained, of which the whole vector is one."""
        return tuple(sorted({*self.widths, self.embed_dim}))

    @property
    def history_config(self) -> DecoderConfig:
        """The transformer over a history: its vocabulary is the one token that a user is read at."""
        return DecoderConfig(
            vocab_size=1,
            dim=self.embed_dim,
            num_layers=self.history_layers,
            num_heads=self.history_heads,
            num_kv_heads=self.history_heads,
            head_dim=2 * math.ceil(self.embed_dim / (2 * self.history_heads)),
            ffn_hidden=2 * self.embed_dim,
        )


class Items(NamedTuple):
    """What is known of some items; fields that no feature reads may be None. `token_mask` says where tokens are real."""

    row: Float[Array, "U D"] | None
    tokens: Int[Array, "U T"] | None = None
    token_mask: Bool[Array, "U T"] | None = None
    image: Float[Array, "U P"] | None = None


class Users(NamedTuple):
    """What is known of some users at a moment; `history` are vectors of the item tower, oldest first, padded at the end."""

    row: Float[Array, "B D"] | None
    history: Float[Array, "B S D"] | None = None
    history_mask: Bool[Array, "B S"] | None = None
    query: Int[Array, "B T"] | None = None
    query_mask: Bool[Array, "B T"] | None = None


class TwoTower(nnx.Module):
    """`items = model.item(Items(...))`, `users = model.user(Users(...))`; the score of a pair is their inner product."""

    def __init__(self, config: TwoTowerConfig, *, rngs: nnx.Rngs):
        self.config, dim = config, config.embed_dim
        self.item_text = TextEncoder(config.text, dim, rngs=rngs) if config.text and "text" in config.item_features else None
        asks, shares = "query" in config.user_features, config.shared_text and self.item_text is not None
        own = TextEncoder(config.text, dim, rngs=rngs) if config.text and asks and not shares else None
        self.query_text = self.item_text if asks and shares else own
        self.image = Linear(config.image_dim, dim, bias=False, rngs=rngs) if config.image_dim else None
        reads_mean = "history" in config.user_features and not config.history_layers
        self.history_mean = Linear(dim, dim, bias=False, rngs=rngs) if reads_mean else None
        self.history = Decoder(config.history_config, rngs=rngs) if config.history_layers else None
        self.item_hidden, self.user_hidden = (
            nnx.List([MLP(dim, width, dim, gain=RESIDUAL_GAIN, rngs=rngs) for width in config.hidden_dims]) for _ in range(2)
        )
        start = jnp.float32(-math.log(config.temperature))
        self.log_scale = nnx.Param(start) if config.learned_temperature else None
        self.bias = nnx.Param(jnp.float32(BIAS_START)) if config.learned_bias else None

    @property
    def scale(self) -> Float[Array, ""]:
        """1 / temperature."""
        if self.log_scale is None:
            return jnp.float32(1 / self.config.temperature)
        return jnp.exp(jnp.minimum(self.log_scale[...], jnp.float32(math.log(MAX_SCALE))))

    def item(self, items: Items) -> Float[Array, "U D"]:
        """Return unit vectors of items."""
        parts: list[Array] = []
        if "id" in self.config.item_features:
            parts.append(_given(items.row, "id"))
        if self.item_text is not None:
            parts.append(self.item_text(_given(items.tokens, "text"), _given(items.token_mask, "text")))
        if self.image is not None:
            parts.append(self.image(rms_norm(_given(items.image, "image"))))
        return _finish(parts, self.item_hidden)

    def user(self, users: Users) -> Float[Array, "B D"]:
        """Return unit vectors of users; a user of whom nothing at all is known, and who asks nothing, is zero."""
        parts: list[Array] = []
        if "id" in self.config.user_features:
            parts.append(_given(users.row, "id"))
        if self.query_text is not None:
            parts.append(self.query_text(_given(users.query, "query"), _given(users.query_mask, "query")))
        if self.history_mean is not None:
            parts.append(
                self.history_mean(masked_mean(_given(users.history, "history"), _given(users.history_mask, "history")))
            )
        if self.history is not None:
            parts = [self._read(users, parts)]
        return _finish(parts, self.user_hidden)

    def _read(self, users: Users, so_far: list[Array]) -> Float[Array, "B D"]:
        """Read a history, and last what else is known of the user, by the transformer."""
        assert self.history is not None
        history, mask = _given(users.history, "history"), _given(users.history_mask, "history")
        token = self.history.embed(jnp.zeros((len(history), 1), jnp.int32))
        last = functools.reduce(jnp.add, [part[:, None] for part in so_far], token)
        x = jnp.concatenate([history, last], axis=1)
        valid = jnp.concatenate([mask, jnp.ones((len(history), 1), bool)], axis=1)
        return self.history(x, valid)[:, -1]


def _finish(parts: list[Array], hidden: Iterable[MLP]) -> Float[Array, "n D"]:
    total = functools.reduce(jnp.add, parts)
    for layer in hidden:
        total = total + layer(rms_norm(total))
    return unit_norm(total)


def _given(x: Array | None, feature: str) -> Array:
    if x is None:
        raise TypeError(f"{feature}: a feature of the model, but missing among what it is given")
    return x


def num_params(config: TwoTowerConfig, *, num_users: int, num_items: int) -> ParamCount:
    """Count parameters in closed form; embeddings are the table's rows of ids and the vectors of tokens."""
    dim, encoders = config.embed_dim, num_text_encoders(config)
    text = text_params(config.text, dim) if config.text else ParamCount(embedding=0, dense=0, active=0)
    rows = num_items * ("id" in config.item_features) + num_users * ("id" in config.user_features)
    dense = encoders * text.dense + config.image_dim * dim + config.learned_temperature + config.learned_bias
    dense += 2 * sum(mlp_params(dim, width, dim) for width in config.hidden_dims)
    if config.history_layers:
        transformer = decoder_params(config.history_config)
        dense += transformer.dense + transformer.embedding
    elif "history" in config.user_features:
        dense += dim * dim
    return ParamCount(embedding=rows * dim + encoders * text.embedding, dense=dense, active=dense)


def num_text_encoders(config: TwoTowerConfig) -> int:
    """Return how many text encoders there are: none, one, or one a side."""
    readers = ("text" in config.item_features) + ("query" in config.user_features)
    return min(readers, 1) if config.shared_text else readers


def flops_per_example(config: TwoTowerConfig, *, history_len: int) -> FlopCount:
    """Count forward FLOPs an encoded item (`candidate`) and an encoded user (`request`) in closed form, scores left out."""
    dim = config.embed_dim
    text = flops_per_text(config.text, dim) if config.text else 0
    hidden = sum(mlp_flops(dim, width, dim) for width in config.hidden_dims)
    item = hidden + text * ("text" in config.item_features) + 2 * config.image_dim * dim
    user = hidden + text * ("query" in config.user_features)
    if config.history_layers:
        length = history_len + 1
        user += length * decoder_flops(config.history_config, context=length, with_logits=False)
    elif "history" in config.user_features:
        user += 2 * history_len * dim + 2 * dim * dim
    return FlopCount(candidate=item, candidate_active=item, request=user)
