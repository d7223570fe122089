"""SASRec: what do the items that a user took say of the next one, out of a whole catalogue?

Question:  how much of a held-out item does a small transformer over item ids find, and what do item texts add?
Command:   `python -m data_gen.interests build CONVERTED --out INTERESTS`, then
           `unisc train experiments/sasrec.py --samples INTERESTS --model sasrec --size m --out DIR`; `--model
           sasrec_text` adds texts, `sasrec_binary` has the published loss.
Cost:      ten minutes of one core on Amazon Beauty at size m with the whole softmax.
Expected:  on Beauty, leave-one-out, ranked among all 12,101 items, R@10 of at least .060 (published .0688); a softmax over many
           items above the published loss of one negative (arXiv 2309.07602).

A run's horizon is fixed: its rate falls to nothing over `train.num_epochs` passes, and what the last step leaves is scored, on
validation and on test alike. Nothing of a run is chosen on test; the settings are untuned. Metrics under `eval/test`
rank every item; those under `eval/test_unseen` leave out what the user's history holds, which on Beauty is never a target.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int64

from unisc.config import Runtime
from unisc.data import manifest
from unisc.data.interests import KIND, Examples, Interests, load
from unisc.data.ragged import Ragged
from unisc.data.sequences import PackedSequences, user_sequences
from unisc.errors import InputError
from unisc.models.sasrec import ItemText, SASRec, SASRecConfig, encode, flops_per_place, num_params
from unisc.objectives import next_item
from unisc.probe import is_held
from unisc.retrieval.exact import found_metrics, target_ranks
from unisc.train import loop
from unisc.train.encoder import EncoderResult, EncoderTrainConfig, train_encoder

VERSION = 1
"""Raised by hand whenever the same configuration would give other numbers."""

KS = (5, 10, 20)
METRICS = ("eval/test/recall@5", "eval/test/recall@10", "eval/test/recall@20", "eval/test/ndcg@10")
"""The metrics a comparison shows."""
FLOORS = ("popularity",)
"""What the same examples give without a model."""
WIDTHS = {"xs": 16, "s": 32, "m": 64, "l": 128}
"""Width by size."""

LossName = Literal["binary", "sampled_softmax", "softmax"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Which interests, by their manifest's fingerprint, and the share of users, by a hash of their number, trained on."""

    interests: str
    fraction: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise InputError(f"data.fraction {self.fraction}: give a share above 0 and at most 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveConfig:
    """The loss (`unisc.objectives.next_item`); if it samples, `num_negatives` draws a row of a batch stand for all items."""

    loss: LossName
    num_negatives: int = 16

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise InputError(f"objective.loss {self.loss!r}: unknown; give one of {', '.join(LOSSES)}")
        if self.num_negatives < 1:
            raise InputError(f"objective.num_negatives {self.num_negatives}: give at least 1")

    def draws(self, max_len: int) -> int:
        """Return how many items a batch draws a row."""
        return {"binary": max_len, "sampled_softmax": self.num_negatives, "softmax": 0}[self.loss]


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """One run; everything its numbers depend on is stated here. A batch is `train.batch_size` rows of packed sequences."""

    data: DataConfig
    model: SASRecConfig
    objective: ObjectiveConfig
    train: EncoderTrainConfig


def default(samples: Path, *, model: str = "sasrec", size: str = "m", seed: int = 0) -> Config:
    """Return the configuration of a variant by name and size on some interests; `unisc.config.override` changes the rest."""
    variants: dict[str, LossName] = {"sasrec": "softmax", "sasrec_text": "softmax", "sasrec_binary": "binary"}
    for name, value, known in (("model", model, variants), ("size", size, WIDTHS)):
        if value not in known:
            raise InputError(f"{name} {value!r}: unknown; give one of {', '.join(known)}")
    about, width = manifest.read(samples, kind=KIND), WIDTHS[size]
    return Config(
        data=DataConfig(interests=about["fingerprint"]),
        model=SASRecConfig(
            num_items=about["counts"]["items"],
            dim=width,
            num_layers=2,
            num_heads=2,
            ffn_hidden=width,
            vocab_size=about["counts"]["vocab"] if model == "sasrec_text" else 0,
        ),
        objective=ObjectiveConfig(loss=variants[model]),
        train=EncoderTrainConfig(
            batch_size=32,
            learning_rate=2e-3,
            weight_decay=0.0,
            seed=seed,
            num_epochs=200 if model == "sasrec_binary" else 30,
        ),
    )


def run(config: Config, runtime: Runtime) -> Mapping[str, Any]:
    """Train on the interests in `runtime.data_dir` and rank the catalogue for every held-out item; return metrics, counts."""
    began = time.perf_counter()
    interests = load(Path(runtime.data_dir), fingerprint=config.data.interests, needs_order=True)
    text = ItemText.of(interests.catalogue.text, vocab_size=config.model.vocab_size) if config.model.vocab_size else None

    # The data: each user's items in the order of time, many users to a row.
    source = batches(config, interests)

    # The model, and its objective at every place: the next item.
    model = SASRec(config.model, rngs=nnx.Rngs(config.train.seed))
    training = loop.Runtime.of(runtime)
    loss = LOSSES[config.objective.loss]
    trained = train_encoder(model, source, config.train, loss=loss, shared=text, runtime=training)

    # The evaluation: the rank of what was held out among all items.
    found: dict[str, float] = {}
    for split in ("validation", "test"):
        examples: Examples = getattr(interests, split)
        ranks = rank(trained, examples, text)
        for name, each in ranks.items():
            found |= {f"eval/{split}{name}/{key}": float(values.mean()) for key, values in measured(each).items()}
        if split == "test":
            np.savez_compressed(Path(runtime.work_dir) / "eval.npz", allow_pickle=False, rank=ranks[""][0], group=ranks[""][1])
            popular = by_popularity(interests, examples)
            found |= {f"eval/popularity/{key}": float(values.mean()) for key, values in measured(popular).items()}
    consumed = {"num_examples": source.num_targets * config.train.num_epochs, "num_sequences": source.sequences.num_rows}
    flops = train_flops(config, num_steps=len(source))
    return trained.record(found, params=num_params(config.model), train_flops=flops, began=began, **consumed)


def batches(config: Config, interests: Interests) -> PackedSequences:
    """Return a run's batches: the sequences of the share of users that it trains on."""
    sequences = user_sequences(interests.train)
    if config.data.fraction < 1:
        sequences = sequences.take(np.flatnonzero(is_held(np.arange(sequences.num_rows), config.data.fraction)))
    return PackedSequences(
        sequences,
        num_items=config.model.num_items,
        max_len=config.model.max_len,
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        num_epochs=config.train.num_epochs,
        num_negatives=config.objective.draws(config.model.max_len),
    )


def softmax_loss(model: Any, rows: None, batch: Any, text: Any) -> tuple[Float[Array, ""], dict[str, Any]]:
    """Return the cross-entropy over the catalogue."""
    vectors = model.item_vectors(text)
    hidden = model(vectors, batch.items, batch.place, batch.segment)
    return next_item.softmax(hidden, vectors, batch.targets, batch.weights, scale=model.scale), {}


def drawn_loss(model: Any, rows: None, batch: Any, text: Any) -> tuple[Float[Array, ""], dict[str, Any]]:
    """Return the cross-entropy with the catalogue sampled."""
    vectors = model.item_vectors(text)
    hidden = model(vectors, batch.items, batch.place, batch.segment)
    given = (hidden, vectors, batch.targets, batch.negatives, batch.weights)
    return next_item.sampled_softmax(*given, scale=model.scale), {}


def binary_loss(model: Any, rows: None, batch: Any, text: Any) -> tuple[Float[Array, ""], dict[str, Any]]:
    """Return the published loss, of one draw a place."""
    vectors = model.item_vectors(text)
    hidden = model(vectors, batch.items, batch.place, batch.segment)
    return next_item.binary(hidden, vectors, batch.targets, batch.negatives, batch.weights, scale=model.scale), {}


LOSSES = {"binary": binary_loss, "sampled_softmax": drawn_loss, "softmax": softmax_loss}

Ranks = tuple[Int64[np.ndarray, " F"], Int64[np.ndarray, " F"]]


def rank(trained: EncoderResult, examples: Examples, text: ItemText | None) -> dict[str, Ranks]:
    """Return the ranks of the targets among all items (""), and among those that are not in the history ("_unseen")."""
    model = trained.model
    assert isinstance(model, SASRec)
    model.eval()
    queries, vectors = encode(model, examples.history, text)
    unseen = target_ranks(queries, vectors, examples.targets, known=examples.history)
    return {"": target_ranks(queries, vectors, examples.targets), "_unseen": unseen}


def by_popularity(interests: Interests, examples: Examples) -> Ranks:
    """Rank items by how often train has them."""
    taken: Ragged = user_sequences(interests.train)
    counts = np.bincount(taken.values, minlength=interests.catalogue.num_items).astype(np.float32)[:, None]
    return target_ranks(np.ones((examples.num_examples, 1), np.float32), counts, examples.targets)


def measured(ranks: Ranks) -> dict[str, Float[np.ndarray, " N"]]:
    """Return each example's metrics at every k of KS."""
    return found_metrics(*ranks, ks=KS)


def train_flops(config: Config, *, num_steps: int) -> int:
    """Count FLOPs of training, left-over places included, since they are computed."""
    scored = {
        "binary": 2,
        "sampled_softmax": 1 + config.objective.num_negatives * config.train.batch_size,
        "softmax": config.model.num_items,
    }[config.objective.loss]
    places = num_steps * config.train.batch_size * config.model.max_len
    return 3 * places * flops_per_place(config.model, num_scored=scored)
