"""What a trained KARMA gives, over whole splits: frozen features of texts, vectors of a catalogue, interests, and recall."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float32, Int

from unisc import metrics
from unisc.data.documents import text_batch
from unisc.data.interest_batches import Lengths, interest_batch
from unisc.data.interests import Examples, Interests
from unisc.data.ragged import Ragged
from unisc.data.tower_batches import wanted_counts
from unisc.models.decoder import Decoder
from unisc.models.karma import Context, Karma
from unisc.retrieval.exact import recall_metrics

BLOCK = 256
"""Rows of one call of a program; the last block is filled up."""


def text_features(language: Decoder, texts: Ragged, *, max_len: int) -> Float32[np.ndarray, "I D"]:
    """Return for each text the mean of the last layer over its tokens, each column scaled to mean 0 and variance 1.

    A text of no tokens has the zero vector: it is told apart by nothing.
    """
    graphdef, state = nnx.split(language)

    @jax.jit
    def encode(state: Any, tokens: Array, valid: Array, counted: Array) -> Array:
        model = nnx.merge(graphdef, state)
        hidden = model(model.embed(tokens), valid)
        return jnp.sum(hidden * counted[..., None], axis=1) / jnp.maximum(jnp.sum(counted, axis=1, keepdims=True), 1)

    def block(rows: np.ndarray) -> Array:
        batch = text_batch(texts, rows, max_len)
        length = np.minimum(texts.lengths[rows], max_len)
        place = np.arange(max_len + 1)
        counted = (place >= 1) & (place <= length[:, None])  # not the beginning's token, which is alike in all
        return encode(state, batch.tokens, counted | (place == 0), counted.astype(np.float32))

    found = _in_blocks(block, np.arange(texts.num_rows))
    has_text = texts.lengths > 0
    some = found[has_text] if has_text.any() else found
    scaled = (found - some.mean(axis=0)) / np.maximum(some.std(axis=0), 1e-6)
    return np.where(has_text[:, None], scaled, 0.0).astype(np.float32)


def encode_catalogue(model: Karma, features: Float32[np.ndarray, "I F"]) -> Float32[np.ndarray, "I E"]:
    """Return the unit vectors of items."""
    graphdef, state = nnx.split(model)
    encode = jax.jit(lambda state, x: nnx.merge(graphdef, state).item(x))
    return _in_blocks(lambda rows: encode(state, features[rows]), np.arange(len(features)))


def encode_interests(
    model: Karma,
    data: Interests,
    examples: Examples,
    features: Float32[np.ndarray, "I F"],
    lengths: Lengths,
    *,
    rows: Int[np.ndarray, " n"] | None = None,
) -> Float32[np.ndarray, "n E"]:
    """Return the interests of some examples, all by default."""
    graphdef, state = nnx.split(model)
    encode = jax.jit(lambda state, context: nnx.merge(graphdef, state)(context))

    def block(rows: np.ndarray) -> Array:
        return encode(state, context_of(interest_batch(examples, data.catalogue.text, rows, lengths), features))

    return _in_blocks(block, np.arange(examples.num_examples) if rows is None else rows)


def context_of(batch: Any, features: Any) -> Context:
    """Return what of an InterestBatch is known when the page is asked for."""
    return Context(batch.query, batch.query_mask, features[batch.history], batch.history_mask)


class Found(NamedTuple):
    """Means by name, and the same for each example."""

    metrics: dict[str, float]
    arrays: dict[str, np.ndarray]


def retrieve(
    model: Karma,
    items: Float32[np.ndarray, "I E"],
    data: Interests,
    examples: Examples,
    features: Float32[np.ndarray, "I F"],
    lengths: Lengths,
    *,
    ks: Sequence[int],
) -> Found:
    """Rank the whole catalogue for every example, and what was shown for those with lists; nothing is masked.

    `gauc` is the mean over pages of the area under the ROC curve of what was wanted against what was shown beside it, weighted
    by the pages' lengths.
    """
    interests = encode_interests(model, data, examples, features, lengths)
    arrays = recall_metrics(interests, items, examples, ks=tuple(k for k in ks if k <= len(items)))
    found = {name: float(values.mean()) for name, values in arrays.items()}
    if len(examples.shown.values):
        num_wanted, num_shown = examples.targets.lengths, examples.shown.lengths
        count = num_wanted + num_shown
        offsets = np.concatenate([[0], np.cumsum(count)])
        place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], count)
        is_wanted = place < np.repeat(num_wanted, count)
        item = np.zeros(offsets[-1], np.int64)
        item[is_wanted], item[~is_wanted] = examples.targets.values, examples.shown.values
        scores = np.einsum("ne,ne->n", interests[np.repeat(np.arange(examples.num_examples), count)], items[item])
        found["gauc"] = metrics.gauc(is_wanted.astype(np.float64), scores, offsets, split="the lists")
    return Found(found, arrays)


def popularity(data: Interests, examples: Examples, *, ks: Sequence[int]) -> dict[str, float]:
    """Return the recall of one order for all: by how often an item is wanted in train."""
    counts = wanted_counts(data, np.arange(data.train.num_examples)).astype(np.float32)[:, None]
    same = np.ones((examples.num_examples, 1), np.float32)
    found = recall_metrics(same, counts, examples, ks=tuple(k for k in ks if k <= len(counts)))
    return {name: float(values.mean()) for name, values in found.items()}


def _in_blocks(block: Callable[[np.ndarray], Array], rows: np.ndarray) -> np.ndarray:
    return np.concatenate([np.asarray(block(filled))[: len(some)] for some, filled in _blocks(rows)])


def _blocks(rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield rows BLOCK at a time, and the same filled up to that by repeating them."""
    for first in range(0, len(rows), BLOCK):
        some = rows[first : first + BLOCK]
        yield some, np.resize(some, BLOCK)
