"""A language model of the shop's own texts, from which KARMA and the generative systems start (no weights are downloaded).

Question:  how well does a decoder of a size foretell titles and queries it has not read, and how does that scale?
Command:   `python -m data_gen.interests build LOGS --out INTERESTS`, then
           `unisc train experiments/language_model.py --samples INTERESTS --size s --out DIR`; the model is left in DIR/decoder,
           a folder that Hugging Face's programs read, too.
Cost:      a minute of one core for 20,000 titles at size s.
Expected:  a loss far below that of the tokens' frequencies, which stands beside it.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from unisc.config import Runtime, fingerprint
from unisc.data.documents import Documents, TextBatch, text_batch
from unisc.data.interests import Interests, load
from unisc.data.ragged import Ragged
from unisc.data.text import check_vocab, load_tokenizer
from unisc.errors import InputError
from unisc.models import decoder
from unisc.models.decoder import Decoder, DecoderConfig
from unisc.models.hugging_face import load_hf, save_hf
from unisc.objectives.language import next_token_loss
from unisc.train import loop
from unisc.train.encoder import EncoderResult, EncoderTrainConfig, train_encoder

VERSION = 1
"""Raised by hand whenever the same configuration would give other numbers."""

METRICS = ("eval/loss", "eval/token_accuracy")
FLOORS = ("frequencies",)
SIZES = {"xxs": (32, 1), "xs": (64, 2), "s": (128, 3), "m": (192, 4), "l": (256, 6), "xl": (384, 8)}
"""Width and depth; a head for 32 entries, half as many key-value heads, and three times the width inside."""
HELD_OUT = 20
"""Every so manieth text, by a permutation that the data's fingerprint does not touch, is scored and not read."""
CHUNK = 32
"""Positions whose logits exist at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """One run; `interests` is the fingerprint of the texts, which are cut to `max_len` tokens."""

    interests: str
    model: DecoderConfig
    train: EncoderTrainConfig
    max_len: int


def sized(size: str, vocab_size: int) -> DecoderConfig:
    """Return a decoder's configuration by the name of its size. Raises InputError for an unknown one."""
    if size not in SIZES:
        raise InputError(f"size {size!r}: unknown; give one of {', '.join(SIZES)}")
    dim, depth = SIZES[size]
    heads = max(dim // 32, 2)
    return DecoderConfig(
        vocab_size=vocab_size,
        dim=dim,
        num_layers=depth,
        num_heads=heads,
        num_kv_heads=heads // 2,
        head_dim=32,
        ffn_hidden=3 * dim,
        rope_theta=1e4,
    )


def default(samples: Path, *, model: str = "qwen3", size: str = "s", seed: int = 0) -> Config:
    """Return the configuration of a decoder by size on some interests; `unisc.config.override` changes the rest.

    Raises:
      InputError: another model than qwen3, an unknown size, or interests without texts.
    """
    if model != "qwen3":
        raise InputError(f"model {model!r}: unknown; give qwen3")
    data = load(samples)
    lengths = data.corpus.lengths
    if len(lengths) < HELD_OUT:
        raise InputError(f"{samples}: has {len(lengths)} texts; give interests whose items have texts")
    return Config(
        interests=data.fingerprint,
        model=sized(size, load_tokenizer(data.tokenizer).vocab_size),
        train=EncoderTrainConfig(
            batch_size=1 << (min(128, len(lengths) // 2).bit_length() - 1),
            learning_rate=2e-3,
            weight_decay=0.01,
            seed=seed,
            num_epochs=4,
        ),
        max_len=int(np.quantile(lengths, 0.99)),
    )


def run(config: Config, runtime: Runtime) -> Mapping[str, Any]:
    """Train a decoder on the texts of the interests in `runtime.data_dir` and score it on texts held out."""
    began = time.perf_counter()
    data = load(Path(runtime.data_dir), fingerprint=config.interests)
    trained = fit(config, data, runtime)
    assert isinstance(trained.model, Decoder)
    metrics = score(config, data, trained.model)
    if runtime.keep_model and not (Path(runtime.work_dir) / "decoder").exists():
        save_hf(trained.model, Path(runtime.work_dir) / "decoder", tokenizer=data.tokenizer)
    tokens = trained.counts.num_examples * (config.max_len + 1)
    flops = 3 * tokens * decoder.flops_per_token(config.model, context=config.max_len + 1)
    return trained.record(metrics, params=decoder.num_params(config.model), train_flops=flops, began=began)


def pretrained(config: Config, data: Interests, runtime: Runtime) -> Decoder:
    """Return the trained decoder of a configuration, trained once for all runs on the same data and kept beside them."""
    folder = Path(runtime.data_dir) / "decoders" / fingerprint(config, version=VERSION)
    if not folder.exists():
        trained = fit(config, data, runtime)
        assert isinstance(trained.model, Decoder)
        try:
            save_hf(trained.model, folder, tokenizer=data.tokenizer)
        except InputError:
            if not folder.exists():  # else another run, which has trained the same, was first
                raise
    return load_hf(folder)


def fit(config: Config, data: Interests, runtime: Runtime) -> EncoderResult:
    """Train the decoder on the texts that are not held out. Raises InputError for a vocabulary smaller than the tokenizer's."""
    check_vocab(load_tokenizer(data.tokenizer), config.model.vocab_size)
    reading, _ = parted(data)
    source = Documents(
        reading,
        name=data.fingerprint,
        batch_size=config.train.batch_size,
        max_len=config.max_len,
        seed=config.train.seed,
        num_epochs=config.train.num_epochs,
    )
    folder = Path(runtime.work_dir) / "language_model"
    folder.mkdir(parents=True, exist_ok=True)
    training = loop.Runtime.of(runtime, directory=folder)
    model = Decoder(config.model, rngs=nnx.Rngs(config.train.seed))
    return train_encoder(model, source, config.train, loss=language_loss, runtime=training)


def language_loss(model: Any, rows: None, batch: Any, shared: None) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Average the next token's cross-entropy over all real tokens of a TextBatch."""
    hidden = model(model.embed(batch.tokens), batch.valid)
    found = next_token_loss(hidden, model.output_vectors(), batch.targets, batch.valid.astype(jnp.float32), chunk=CHUNK)
    return found.mean, {}


def score(config: Config, data: Interests, model: Decoder) -> dict[str, float]:
    """Return loss and accuracy a token on the texts held out, and the loss of the read tokens' frequencies."""
    reading, held_out = parted(data)
    graphdef, state = nnx.split(model)

    @jax.jit
    def judge(state: Any, batch: Any) -> tuple[jax.Array, jax.Array]:
        model = nnx.merge(graphdef, state)
        logits = model.logits(model(model.embed(batch.tokens), batch.valid)).astype(jnp.float32)
        own = jnp.take_along_axis(jax.nn.log_softmax(logits), batch.targets[..., None], axis=-1)[..., 0]
        return jnp.sum(-own * batch.valid), jnp.sum((jnp.argmax(logits, axis=-1) == batch.targets) & batch.valid)

    loss = right = count = 0.0
    surprise, counts = 0.0, np.ones(config.model.vocab_size)
    for batch in _batches(reading, config):
        counts += np.bincount(batch.targets[batch.valid], minlength=len(counts))
    frequency = np.log(counts / counts.sum())
    for batch in _batches(held_out, config):
        found = judge(state, batch)
        loss, right, count = loss + float(found[0]), right + float(found[1]), count + int(batch.valid.sum())
        surprise -= float(frequency[batch.targets[batch.valid]].sum())
    return {
        "eval/loss": loss / count,
        "eval/token_accuracy": right / count,
        "eval/frequencies/loss": surprise / count,
        "eval/num_tokens": count,
    }


def parted(data: Interests) -> tuple[Ragged, Ragged]:
    """Part the corpus into what is read and what is held out."""
    order = np.random.default_rng(HELD_OUT).permutation(data.corpus.num_rows)
    cut = data.corpus.num_rows // HELD_OUT
    return data.corpus.take(np.sort(order[cut:])), data.corpus.take(np.sort(order[:cut]))


def _batches(texts: Ragged, config: Config) -> Iterator[TextBatch]:
    """Yield all texts in batches of one shape, the last filled up with rows of nothing."""
    size = config.train.batch_size
    for first in range(0, texts.num_rows, size):
        rows = np.arange(first, min(first + size, texts.num_rows))
        batch = text_batch(texts, np.resize(rows, size), config.max_len)
        batch.valid[len(rows) :] = False
        yield batch
