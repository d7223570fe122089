"""What the loop is given to train two towers, and their vectors of a whole catalogue and of examples."""

import functools
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float32, Int

from unisc.data.interests import Examples, Interests
from unisc.data.tower_batches import Hard, TowerBatches, histories
from unisc.errors import InputError
from unisc.models.two_tower import Items, TwoTower, TwoTowerConfig, Users
from unisc.nn.recompute import encode_in_chunks
from unisc.objectives import contrastive
from unisc.objectives.contrastive import matryoshka
from unisc.train.encoder import EncoderTrainConfig

LossName = Literal["info_nce", "sigmoid", "sampled", "full"]
ITEMS_AT_ONCE, USERS_AT_ONCE = 4096, 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class ContrastConfig:
    """What a user is set against: the other rows' items (`info_nce`, `sigmoid`), `num_drawn` items a row, or all (`full`).

    `corrected` takes log(expected count) off in-batch logits; drawn ones always are corrected, drawn by count^`draw_power`.
    `num_shown` of what was shown and not clicked, and what was mined, are negatives of a row's own. `mask_known` spares items
    that a user is known to want. Towers encode in `num_chunks` (gradient caching).
    """

    loss: LossName = "info_nce"
    corrected: bool = True
    num_drawn: int = 0
    draw_power: float = 0.0
    num_shown: int = 0
    mask_known: bool = False
    num_chunks: int = 1

    def __post_init__(self) -> None:
        if (self.loss == "sampled") != (self.num_drawn > 0):
            raise InputError(f"num_drawn {self.num_drawn}: goes with loss sampled; give both or neither")
        for name, least in (("num_drawn", 0), ("draw_power", 0), ("num_shown", 0), ("num_chunks", 1)):
            if not getattr(self, name) >= least:
                raise InputError(f"{name} {getattr(self, name)}: give a number of at least {least}")


class Shared(NamedTuple):
    """What every step reads: how often each item is wanted, its tokens and how many, and its frozen picture vector."""

    counts: Int[Array, "I"]
    tokens: Int[Array, "I T"] | None
    num_tokens: Int[Array, "I"] | None
    image: Float[Array, "I P"] | None

    def items(self, rows: Array, vectors: Array | None) -> Items:
        """Return what the item tower reads of some items, `vectors` their rows of the table; a row past the end reads any."""
        rows = jnp.minimum(rows, len(self.counts) - 1)
        image = None if self.image is None else self.image[rows]
        if self.tokens is None or self.num_tokens is None:
            return Items(vectors, image=image)
        mask = jnp.arange(self.tokens.shape[1], dtype=jnp.int32) < self.num_tokens[rows][:, None]
        return Items(vectors, self.tokens[rows], mask, image)


@dataclass(frozen=True, kw_only=True, slots=True)
class TowerLoss:
    """The loss of a batch, `loss(model, rows, batch, shared)`; equal ones share a compiled step."""

    config: ContrastConfig
    prefixes: tuple[int, ...]
    has_user_rows: bool

    def __call__(
        self, model: nnx.Module, rows: Array | None, batch: Any, shared: Shared
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Return the mean over rows and, for the log, 1 / temperature."""
        assert isinstance(model, TwoTower)
        chunks, num_slots = self.config.num_chunks, len(batch.unique_rows) - len(batch.user)
        read = shared.items(batch.unique_rows[:num_slots], None if rows is None else rows[:num_slots])
        items = encode_in_chunks(model.item, read, chunks)
        user_rows = rows[num_slots:][batch.user] if rows is not None and self.has_user_rows else None
        users = encode_in_chunks(
            lambda given: model.user(given._replace(history=items[given.history])),
            Users(user_rows, batch.history, batch.history_mask, batch.query, batch.query_mask),
            chunks,
        )
        hard = items[batch.hard] if batch.hard.shape[1] else None
        drawn = items[batch.drawn.reshape(-1)] if batch.drawn.size else None
        catalogue = items if self.config.loss == "full" else None
        losses = matryoshka(
            functools.partial(self._of_width, model, batch, shared),
            self.prefixes, users, items[batch.wanted], hard, drawn, catalogue,
        )  # fmt: skip
        return jnp.mean(losses), {"scale": model.scale}

    def _of_width(
        self, model: TwoTower, batch: Any, shared: Shared, users: Array, wanted: Array, hard: Any, drawn: Any, catalogue: Any
    ) -> Float[Array, "B"]:
        kind, own = self.config.loss, None if hard is None else contrastive.Hard(hard, batch.hard, batch.hard_mask)
        scale = model.scale
        if kind == "full":
            return contrastive.full_softmax(users, catalogue, batch.wanted, scale=scale, chunk=ITEMS_AT_ONCE)
        if kind == "sigmoid":
            bias = 0.0 if model.bias is None else model.bias[...]
            return contrastive.sigmoid_loss(users, wanted, batch.wanted, scale=scale, bias=bias, hard=own, known=batch.known)
        counts = jnp.maximum(shared.counts, 1).astype(jnp.float32)
        if kind == "sampled":
            weight = self.config.draw_power * jnp.log(counts)
            places = batch.drawn.reshape(-1)
            log_prob = (weight - jax.nn.logsumexp(weight))[batch.unique_rows[places]]
            given = (users, wanted, batch.wanted, drawn, places)
            return contrastive.sampled_softmax(*given, scale=scale, log_prob=log_prob, hard=own)
        log_prob = jnp.log(counts / jnp.sum(shared.counts).astype(jnp.float32))[batch.unique_rows[batch.wanted]]
        return contrastive.info_nce(
            users, wanted, batch.wanted,
            scale=scale, hard=own, log_prob=log_prob if self.config.corrected else None, known=batch.known,
        )  # fmt: skip


def batches_of(
    data: Interests,
    config: EncoderTrainConfig,
    contrast: ContrastConfig,
    model: TwoTowerConfig,
    *,
    history_len: int,
    hard: Hard | None = None,
    fraction: float = 1.0,
) -> TowerBatches:
    """Return the train split as the batches that this loss wants."""
    batches = TowerBatches(
        data,
        batch_size=config.batch_size,
        seed=config.seed,
        num_epochs=config.num_epochs,
        history_len=history_len if "history" in model.user_features else 0,
        query_len=model.text.max_len if model.text and "query" in model.user_features else 0,
        num_shown=contrast.num_shown,
        hard=hard,
        whole=contrast.loss == "full",
        num_drawn=contrast.num_drawn,
        draw_power=contrast.draw_power,
        mask_known=contrast.mask_known,
        fraction=fraction,
    )
    batches.identity += f" {model}"  # a checkpoint of other towers of like shapes is another run's
    return batches


def shared_of(data: Interests, model: TwoTowerConfig, counts: np.ndarray) -> Shared:
    """Return what every step reads of the catalogue.

    Raises:
      InputError: a picture is wanted that the catalogue does not have, or is of another width.
    """
    catalogue, everything = data.catalogue, np.arange(data.catalogue.num_items)
    tokens = num_tokens = image = None
    if model.text and "text" in model.item_features:
        padded, mask = catalogue.text.padded(everything, model.text.max_len, keep="first")
        tokens, num_tokens = jnp.asarray(padded, jnp.int32), jnp.asarray(mask.sum(axis=1), jnp.int32)
    if model.image_dim:
        found = 0 if catalogue.visual is None else catalogue.visual.shape[1]
        if catalogue.visual is None or found != model.image_dim:
            raise InputError(f"image_dim {model.image_dim}: the catalogue's picture vectors have {found}; give that")
        image = jnp.asarray(catalogue.visual, jnp.float32)
    return Shared(jnp.asarray(counts, jnp.int32), tokens, num_tokens, image)


def table_rows(data: Interests, model: TwoTowerConfig) -> int:
    """Return how many rows the table of ids has: items, then users where they are read."""
    if "id" in model.user_features:
        return data.catalogue.num_items + data.num_users
    return data.catalogue.num_items if "id" in model.item_features else 0


def encode_items(model: TwoTower, table: np.ndarray, shared: Shared) -> Float32[np.ndarray, "I D"]:
    """Return the vectors of the whole catalogue; `table` holds the items' rows first."""
    graphdef, state = nnx.split(model)
    num_items, has_rows = len(shared.counts), "id" in model.config.item_features
    found = []
    for start in range(0, num_items, ITEMS_AT_ONCE):
        rows = np.minimum(np.arange(start, start + min(ITEMS_AT_ONCE, num_items)), num_items - 1)
        vectors = jnp.asarray(table[rows], jnp.float32) if has_rows else None
        found.append(np.asarray(_item_vectors(graphdef, state, shared, jnp.asarray(rows, jnp.int32), vectors)))
    return np.concatenate(found)[:num_items]


def encode_users(
    model: TwoTower,
    table: np.ndarray,
    items: Float32[np.ndarray, "I D"],
    data: Interests,
    examples: Examples,
    *,
    history_len: int,
    rows: np.ndarray | None = None,
    wanted: np.ndarray | None = None,
) -> Float32[np.ndarray, "N D"]:
    """Return the vectors of examples' users (all, or those in `rows`); `items` are the catalogue's.

    `wanted` are the items, a row each, that are left out of histories without order: what training left out.
    """
    graphdef, state = nnx.split(model)
    config, num_items = model.config, len(items)
    rows = np.arange(len(examples.user)) if rows is None else rows
    vectors, found = jnp.asarray(items), []
    for start in range(0, len(rows), USERS_AT_ONCE):
        # The last block is filled up with its own last row, so that one program serves all.
        at = np.minimum(np.arange(start, start + USERS_AT_ONCE), len(rows) - 1)
        some = rows[at]
        own = jnp.asarray(table[num_items + examples.user[some]], jnp.float32) if "id" in config.user_features else None
        users = Users(own)
        if "history" in config.user_features:
            taken = None if wanted is None else wanted[at]
            history, mask = histories(data, examples, some, history_len, wanted=taken)
            users = users._replace(history=jnp.asarray(history, jnp.int32), history_mask=jnp.asarray(mask))
        if config.text and "query" in config.user_features:
            query, mask = examples.query.padded(some, config.text.max_len, keep="first")
            users = users._replace(query=jnp.asarray(query, jnp.int32), query_mask=jnp.asarray(mask))
        found.append(np.asarray(_user_vectors(graphdef, state, vectors, users)))
    return np.concatenate([np.zeros((0, items.shape[1]), np.float32), *found])[: len(rows)]


@functools.partial(jax.jit, static_argnums=0)
def _item_vectors(graphdef: Any, state: Any, shared: Shared, rows: Array, vectors: Array | None) -> Array:
    return nnx.merge(graphdef, state).item(shared.items(rows, vectors))


@functools.partial(jax.jit, static_argnums=0)
def _user_vectors(graphdef: Any, state: Any, items: Array, users: Users) -> Array:
    history = None if users.history is None else items[users.history]
    return nnx.merge(graphdef, state).user(users._replace(history=history))
