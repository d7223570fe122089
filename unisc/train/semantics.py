"""What an interest still knows, and how it came about: attention, linear probes, and the item's text read off it.

The same measures are taken of the model before it is trained, which is the pretrained language model behind fresh projections,
so that collapse is a difference (KARMA, arXiv 2603.22779). None of them trains the model: decodability is judged by a prefix
fitted to its interests for a fixed number of steps, with the pretrained language model held still, so that a model trained
without reconstruction is judged by the same means as one with it.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float32

from unisc import collapse
from unisc.data.interest_batches import InterestBatch, Lengths, interest_batch
from unisc.data.interests import Examples, Interests
from unisc.models.decoder import Decoder
from unisc.models.karma import Karma, KarmaConfig, KarmaHeads, KarmaTrainee
from unisc.nn.frozen import freeze
from unisc.objectives.language import next_token_loss
from unisc.probe import ProbeConfig, linear_probe
from unisc.train.encoder import EncoderTrainConfig, train_encoder
from unisc.train.interests import context_of, encode_interests

CHUNK, PROBE = 32, ProbeConfig()


@dataclass(frozen=True, kw_only=True, slots=True)
class SemanticsConfig:
    """How many test examples are looked at, and how decodability is fitted; `seed` draws them."""

    num_maps: int = 128
    num_probed: int = 4096
    decode_steps: int = 200
    decode_batch: int = 128
    decode_rate: float = 3e-3
    seed: int = 0


def judge(
    model: KarmaTrainee,
    language: Decoder,
    data: Interests,
    features: Float32[np.ndarray, "I F"],
    lengths: Lengths,
    config: SemanticsConfig,
) -> dict[str, float]:
    """Return the measures by name, each with `_low` and `_high` of its 90 % bootstrap interval where it has one."""
    serve, test = model.serve, data.test
    rows = np.random.default_rng(config.seed).permutation(test.num_examples)
    found = _attention(serve, data, features, lengths, rows[: config.num_maps], config.seed)

    # Linear probes: what the wanted item is, off the interest.
    probed = np.sort(rows[: config.num_probed])
    interests = encode_interests(serve, data, test, features, lengths, rows=probed)
    wanted = np.asarray(test.targets.values)[test.targets.offsets[probed]]
    for name, labels in (("category", data.catalogue.category), ("brand", data.catalogue.brand)):
        of_wanted = np.asarray(labels)[wanted]
        counts = np.bincount(of_wanted[of_wanted >= 0])
        if np.count_nonzero(counts >= PROBE.min_count) > 1:  # else there is nothing to tell apart
            probe = linear_probe(interests, of_wanted, probed, PROBE, seed=config.seed)
            found |= {f"{name}_accuracy{end}": v for end, v in zip(("", "_low", "_high"), probe.accuracy, strict=True)}
            found[f"{name}_majority"] = probe.majority

    if len(data.catalogue.text.values):
        found |= _decodability(serve, language, data, features, lengths, config, probed, interests)
    return found


def _attention(
    serve: Karma, data: Interests, features: np.ndarray, lengths: Lengths, rows: np.ndarray, seed: int
) -> dict[str, float]:
    batch = interest_batch(data.test, data.catalogue.text, np.sort(rows), lengths)
    if batch.history_mask.sum() < 2:
        return {}
    graphdef, state = nnx.split(serve)

    @jax.jit
    def look(state: Any, context: Any) -> tuple[Array, Array]:
        model = nnx.merge(graphdef, state)
        x, valid = model.sequence(context)
        return model.decoder.attention_maps(x, valid), valid

    maps, valid = (np.asarray(x) for x in look(state, context_of(batch, features)))
    other = batch._replace(history=collapse.shuffle_contents(batch.history, batch.history_mask, seed=seed))
    shuffled, _ = look(state, context_of(other, features))
    slots = np.where(batch.history_mask, np.asarray(serve.slots(lengths.query, lengths.history)), -1)
    measured = collapse.measure(maps, valid, slots, shuffled=np.asarray(shuffled), seed=seed)
    out = {}
    for name in ("sink_rate", "entropy", "cosine", "cosine_change", "sensitivity"):
        estimate = getattr(measured, name)
        out |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    return out


class Reading(NamedTuple):
    """Interests, and the texts that are to be read off them."""

    interest: np.ndarray
    answer: np.ndarray
    answer_mask: np.ndarray
    targets: np.ndarray
    targets_mask: np.ndarray


class Reader(nnx.Module):
    """Fresh heads before a language model that is held still."""

    def __init__(self, config: KarmaConfig, language: Decoder, *, rngs: nnx.Rngs):
        self.heads = KarmaHeads(config, rngs=rngs)
        graphdef, state = nnx.split(language)
        self.language = nnx.merge(graphdef, state)  # a copy: the caller's stays a model that can be trained
        freeze(self.language)

    def __call__(self, reading: Any) -> Array:
        """Return what the language model gives at <text> and at each token after it."""
        return self.heads.reconstruct(self.language, reading.interest, reading.answer, reading.answer_mask)


class _Readings:
    """Batches of interests with their items' texts, in one order."""

    def __init__(self, interests: np.ndarray, texts: InterestBatch, config: SemanticsConfig):
        self.batch_size, self.identity, self._config = config.decode_batch, "readings", config
        self._all = Reading(interests, texts.answer, texts.answer_mask, texts.targets, texts.targets_mask)

    def __len__(self) -> int:
        return self._config.decode_steps

    def __getitem__(self, index: int) -> Reading:
        rows = np.random.default_rng([self._config.seed, index]).integers(0, len(self._all.interest), self.batch_size)
        return Reading(*(x[rows] for x in self._all))


def _reading_loss(model: Any, rows: None, batch: Any, shared: None) -> tuple[Array, dict[str, Array]]:
    weights = batch.targets_mask.astype(jnp.float32)
    found = next_token_loss(model(batch), model.language.output_vectors(), batch.targets, weights, chunk=CHUNK)
    return found.mean, {}


def _decodability(
    serve: Karma,
    language: Decoder,
    data: Interests,
    features: np.ndarray,
    lengths: Lengths,
    config: SemanticsConfig,
    probed: np.ndarray,
    interests: np.ndarray,
) -> dict[str, float]:
    """Fit a reader on interests of the train split and score it on the test's, with their own interests and with others'."""
    rows = np.sort(np.random.default_rng(config.seed).permutation(data.train.num_examples)[: config.num_probed])
    ours = encode_interests(serve, data, data.train, features, lengths, rows=rows)
    train = EncoderTrainConfig(
        batch_size=config.decode_batch, learning_rate=config.decode_rate, weight_decay=0.0, seed=config.seed
    )
    reader = Reader(serve.config, language, rngs=nnx.Rngs(config.seed))
    texts = _texts(data, data.train, rows, lengths)
    fitted = train_encoder(reader, _Readings(ours, texts, config), train, loss=_reading_loss).model
    assert isinstance(fitted, Reader)
    graphdef, state = nnx.split(fitted)

    @jax.jit
    def judge_batch(state: Any, reading: Reading) -> tuple[Array, Array]:
        model = nnx.merge(graphdef, state)
        logits = model.language.logits(model(reading)).astype(jnp.float32)
        right = (jnp.argmax(logits, axis=-1) == reading.targets) & reading.targets_mask
        own = jnp.take_along_axis(jax.nn.log_softmax(logits), reading.targets[..., None], axis=-1)[..., 0]
        return jnp.sum(right, axis=1), jnp.sum(-own * reading.targets_mask, axis=1)

    held = _texts(data, data.test, probed, lengths)
    given = {"": interests, "_of_others": interests[np.random.default_rng(config.seed).permutation(len(interests))]}
    out, count = {}, held.targets_mask.sum()
    size = config.decode_batch
    for name, vectors in given.items():
        whole = Reading(vectors, held.answer, held.answer_mask, held.targets, held.targets_mask)
        right = loss = 0.0
        for first in range(0, len(vectors), size):
            block = np.resize(np.arange(first, min(first + size, len(vectors))), size)
            real = min(size, len(vectors) - first)
            found = judge_batch(state, Reading(*(x[block] for x in whole)))
            right, loss = right + float(found[0][:real].sum()), loss + float(found[1][:real].sum())
        out |= {f"token_accuracy{name}": right / count, f"text_loss{name}": loss / count}
    return out


def _texts(data: Interests, examples: Examples, rows: np.ndarray, lengths: Lengths) -> InterestBatch:
    return interest_batch(examples, data.catalogue.text, rows, lengths)
