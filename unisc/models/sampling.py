"""Text out of a decoder, compiled whole: draws with temperature, top-k and top-p, or the best of a beam, up to a stop token."""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from unisc.errors import InputError
from unisc.models.decoder import Cache, Decoder

NEVER = -1e30
"""The log probability of what must not be said; finite, so that sums of it compare."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleConfig:
    """How tokens are chosen. Temperature 0 takes the likeliest; `top_k` 0 and `top_p` 1 leave all tokens in.

    After a token of `stop` a row is over, and `pad` fills what is left of it.
    """

    max_new: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    stop: tuple[int, ...] = ()
    pad: int = 0

    def __post_init__(self) -> None:
        if self.max_new < 1:
            raise InputError(f"max_new {self.max_new}: give at least 1")
        if self.temperature < 0:
            raise InputError(f"temperature {self.temperature}: give 0 (the likeliest token) or more")
        if self.top_k < 0:
            raise InputError(f"top_k {self.top_k}: give 0 (all tokens) or more")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p {self.top_p}: give a share above 0, 1 for all tokens")


class Sampled(NamedTuple):
    """New tokens a row, which of them are real (the stop token is), and the log probability of those under the model."""

    tokens: Int[Array, "B T"]
    valid: Bool[Array, "B T"]
    log_probs: Float[Array, "B T"]


class Beams(NamedTuple):
    """The likeliest answers of each row, best first, W of them, and the sum of their tokens' log probabilities."""

    tokens: Int[Array, "B W T"]
    valid: Bool[Array, "B W T"]
    scores: Float[Array, "B W"]


def sample(
    model: Decoder, prompt: Float[Array, "B T D"], valid: Bool[Array, "B T"], config: SampleConfig, key: Array
) -> Sampled:
    """Continue prompts, given as vectors and padded on the left, by drawn tokens.

    Raises:
      InputError: prompt and answer are longer than the model reads, or a stop token is not in its vocabulary.
    """
    _check(model, prompt, config)
    graphdef, state = nnx.split(model)
    return _sample(graphdef, state, prompt, valid, config, key)


@functools.partial(jax.jit, static_argnames=("graphdef", "config"))
def _sample(graphdef: Any, state: Any, prompt: Array, valid: Array, config: SampleConfig, key: Array) -> Sampled:
    model = nnx.merge(graphdef, state)
    num_rows, length = valid.shape
    hidden, cache = model.read(prompt, valid, model.empty_cache(num_rows, length + config.max_new))
    stop = jnp.asarray(config.stop, jnp.int32)

    def step(carried: tuple[Array, Cache, Array], key: Array) -> tuple[tuple[Array, Cache, Array], Sampled]:
        last, cache, is_over = carried
        log_probs = jax.nn.log_softmax(model.logits(last).astype(jnp.float32))
        drawn = jnp.where(is_over, config.pad, choose(log_probs, config, key)).astype(jnp.int32)
        said = Sampled(drawn, ~is_over, jnp.where(is_over, 0.0, jnp.take_along_axis(log_probs, drawn[:, None], 1)[:, 0]))
        hidden, cache = model.read(model.embed(drawn[:, None]), ~is_over[:, None], cache)
        return (hidden[:, -1], cache, is_over | jnp.isin(drawn, stop)), said

    start = (hidden[:, -1], cache, jnp.zeros(num_rows, bool))
    _, said = jax.lax.scan(step, start, jax.random.split(key, config.max_new))
    return Sampled(*(jnp.moveaxis(x, 0, 1) for x in said))


def choose(log_probs: Float[Array, "B V"], config: SampleConfig, key: Array) -> Int[Array, "B"]:
    """Draw one token a row: the temperature first, then the `top_k` likeliest of it, then the least set that holds `top_p`."""
    if config.temperature == 0:
        return jnp.argmax(log_probs, axis=-1)
    scaled = log_probs / config.temperature
    if 0 < config.top_k < scaled.shape[-1]:
        least = jax.lax.top_k(scaled, config.top_k)[0][:, -1:]
        scaled = jnp.where(scaled >= least, scaled, NEVER)
    if config.top_p < 1:
        ordered = jnp.flip(jnp.sort(scaled, axis=-1), axis=-1)
        before = jnp.cumsum(jax.nn.softmax(ordered), axis=-1) - jax.nn.softmax(ordered)
        kept = jnp.sum(before < config.top_p, axis=-1, keepdims=True)  # the token that reaches the share is one of them
        scaled = jnp.where(scaled >= jnp.take_along_axis(ordered, kept - 1, axis=-1), scaled, NEVER)
    return jax.random.categorical(key, scaled)


def beam(
    model: Decoder, prompt: Float[Array, "B T D"], valid: Bool[Array, "B T"], config: SampleConfig, *, width: int
) -> Beams:
    """Return the likeliest answers that a beam of `width` finds; temperature, `top_k` and `top_p` play no part.

    Raises:
      InputError: as `sample`, or a width below 1 or above the vocabulary.
    """
    _check(model, prompt, config)
    if not 1 <= width <= model.config.vocab_size:
        raise InputError(f"width {width}: give 1 to {model.config.vocab_size}, the size of the vocabulary")
    graphdef, state = nnx.split(model)
    return _beam(graphdef, state, prompt, valid, config, width)


@functools.partial(jax.jit, static_argnames=("graphdef", "config", "width"))
def _beam(graphdef: Any, state: Any, prompt: Array, valid: Array, config: SampleConfig, width: int) -> Beams:
    model = nnx.merge(graphdef, state)
    num_rows, length = valid.shape
    vocab = model.config.vocab_size
    hidden, cache = model.read(prompt, valid, model.empty_cache(num_rows, length + config.max_new))
    stop = jnp.asarray(config.stop, jnp.int32)

    def spread(x: Array) -> Array:
        return jnp.repeat(x, width, axis=0)

    def pick(x: Array, parent: Array) -> Array:
        """Take each beam's past from the beam it goes on from."""
        per_row = x.reshape(num_rows, width, *x.shape[1:])
        index = parent.reshape(num_rows, width, *(1,) * (x.ndim - 1))
        return jnp.take_along_axis(per_row, index, axis=1).reshape(x.shape)

    def step(carried: tuple[Any, ...], place: Array) -> tuple[tuple[Any, ...], None]:
        last, cache, scores, tokens, marks, is_over = carried
        log_probs = jax.nn.log_softmax(model.logits(last).astype(jnp.float32)).reshape(num_rows, width, vocab)
        # An answer that is over goes on in one way only, which costs nothing.
        only_pad = jnp.where(jnp.arange(vocab) == config.pad, 0.0, NEVER)
        log_probs = jnp.where(is_over.reshape(num_rows, width, 1), only_pad, log_probs)
        scores, best = jax.lax.top_k((scores[..., None] + log_probs).reshape(num_rows, -1), width)
        parent, said = best // vocab, (best % vocab).astype(jnp.int32).reshape(-1)
        tokens, marks, was_over = (pick(x, parent) for x in (tokens, marks, is_over))
        tokens = tokens.at[:, place].set(jnp.where(was_over, config.pad, said))
        marks = marks.at[:, place].set(~was_over)
        moved = Cache(
            keys=tuple(pick(x, parent) for x in cache.keys),
            values=tuple(pick(x, parent) for x in cache.values),
            valid=pick(cache.valid, parent),
            length=cache.length,
        )
        hidden, moved = model.read(model.embed(said[:, None]), ~was_over[:, None], moved)
        return (hidden[:, -1], moved, scores, tokens, marks, was_over | jnp.isin(said, stop)), None

    start = jnp.where(jnp.arange(width) == 0, 0.0, NEVER)  # all beams are one at first
    blank = jnp.full((num_rows * width, config.max_new), config.pad, jnp.int32)
    wide = jax.tree.map(lambda x: spread(x) if x.ndim else x, cache)
    nothing = jnp.zeros(blank.shape, bool)
    carried: Any = (spread(hidden[:, -1]), wide, jnp.tile(start, (num_rows, 1)), blank, nothing, nothing[:, 0])
    (_, _, scores, tokens, marks, _), _ = jax.lax.scan(step, carried, jnp.arange(config.max_new))
    shape = (num_rows, width, config.max_new)
    return Beams(tokens.reshape(shape), marks.reshape(shape), scores)


def _check(model: Decoder, prompt: Array, config: SampleConfig) -> None:
    total = prompt.shape[1] + config.max_new
    if total > model.config.max_len:
        raise InputError(f"{total} tokens of prompt and answer: the model reads {model.config.max_len}; shorten one of them")
    for token in (*config.stop, config.pad):
        if not 0 <= token < model.config.vocab_size:
            raise InputError(f"token {token}: not of the vocabulary of {model.config.vocab_size}; give another stop or pad")
