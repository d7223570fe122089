"""Two towers: how much of what users want next does nearest-neighbour search over the whole catalogue find?

Question:  what do ids, texts and pictures of items, the loss, and rounds of mined hard negatives each buy in recall?
Command:   `python -m data_gen.interests build LOGS_OR_CONVERTED --out INTERESTS`, then
           `unisc train experiments/two_tower.py --samples INTERESTS --model id --size m --out DIR`.
Cost:      Amazon CDs (604 thousand pairs), --model id --size m: about 20 core seconds an epoch, and some 100 to score all users
           and popularity; a round of hard negatives costs all epochs again, and the mining.
Expected:  far above popularity, which stands beside it. Amazon CDs: R@20 of at least .12 (published: popularity .012, NGCF
           .126, SimpleX .176; BARS benchmark).
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from unisc.config import Runtime
from unisc.data.interests import Examples, Interests, load
from unisc.data.text import load_tokenizer
from unisc.data.tower_batches import Hard, kept, wanted_counts
from unisc.errors import InputError
from unisc.models import two_tower
from unisc.models.text_encoder import TextConfig
from unisc.models.two_tower import ItemFeature, TwoTower, TwoTowerConfig, UserFeature
from unisc.retrieval import hard_negatives
from unisc.retrieval.exact import recall_metrics
from unisc.retrieval.hard_negatives import Mined, MiningConfig
from unisc.train import loop, towers
from unisc.train.encoder import EncoderResult, EncoderTrainConfig, train_encoder
from unisc.train.towers import ContrastConfig, TowerLoss

VERSION = 1
"""Raised by hand whenever the same configuration would give other numbers."""

METRICS = ("eval/recall@20", "eval/ndcg@20", "eval/hr@200")
"""The metrics a comparison shows."""
FLOORS = ("popularity",)
EMBED_DIMS: Mapping[str, int] = {"xs": 16, "s": 32, "m": 64, "l": 128}
FEATURES: Mapping[str, tuple[tuple[UserFeature, ...], tuple[ItemFeature, ...]]] = {
    "id": (("history",), ("id",)),
    "ids": (("id", "history"), ("id",)),
    "text": (("history", "query"), ("text",)),
    "content": (("history", "query"), ("text", "image")),
    "all": (("id", "history", "query"), ("id", "text", "image")),
}
"""What users and items are read by; what the data do not have is left out. A vector of the user's own fits train alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Which interests, by their manifest's fingerprint; `fraction` is the share of users trained on."""

    interests: str
    history_len: int
    fraction: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalConfig:
    """Cuts of the ranking; `mask_known` leaves out what a user is known to want, where the protocol says so."""

    ks: tuple[int, ...] = (10, 20, 50, 200)
    mask_known: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """One run; everything its numbers depend on is stated here."""

    data: DataConfig
    model: TwoTowerConfig
    train: EncoderTrainConfig
    contrast: ContrastConfig
    mining: MiningConfig
    evaluate: EvalConfig

    def __post_init__(self) -> None:
        if (self.contrast.loss == "sigmoid") != self.model.learned_bias:
            raise InputError(f"contrast.loss {self.contrast.loss}: model.learned_bias goes with sigmoid; give both or neither")
        if self.contrast.loss == "full" and (self.contrast.num_shown or self.mining.num_rounds):
            raise InputError("contrast.loss full: has every item as a negative; give no num_shown and no mining.num_rounds")


def default(samples: Path, *, model: str = "all", size: str = "m", seed: int = 0) -> Config:
    """Return the configuration by features and size on some interests; `unisc.config.override` changes the rest.

    Raises:
      InputError: unknown features or size, or the data have none of the features.
    """
    for name, value, known in (("model", model, FEATURES), ("size", size, EMBED_DIMS)):
        if value not in known:
            raise InputError(f"{name} {value!r}: unknown; give one of {', '.join(known)}")
    data = load(samples)
    has = {"id", "history"}
    has |= {"text"} if len(data.catalogue.text.values) else set()
    has |= {"query"} if len(data.train.query.values) else set()
    has |= {"image"} if data.catalogue.visual is not None else set()
    of_users, of_items = FEATURES[model]
    users, items = tuple(f for f in of_users if f in has), tuple(f for f in of_items if f in has)
    if not items:
        raise InputError(f"{samples}: its items have none of {', '.join(FEATURES[model][1])}; give model id")
    reads_text = "text" in items or "query" in users
    dim = EMBED_DIMS[size]
    text = TextConfig(vocab_size=load_tokenizer(data.tokenizer).vocab_size, dim=dim, ffn_hidden=4 * dim, max_len=32)
    return Config(
        data=DataConfig(interests=data.fingerprint, history_len=50),
        model=TwoTowerConfig(
            embed_dim=dim,
            user_features=users,
            item_features=items,
            text=text if reads_text else None,
            image_dim=data.catalogue.visual.shape[1] if "image" in items and data.catalogue.visual is not None else 0,
            temperature=0.1,
        ),
        train=EncoderTrainConfig(
            batch_size=1 << (min(1024, data.train.num_examples).bit_length() - 1),  # divides among devices
            learning_rate=1e-3,
            weight_decay=1e-5,
            seed=seed,
            num_epochs=3,
            table_learning_rate=0.5,
        ),
        contrast=ContrastConfig(mask_known=not data.is_ordered, num_shown=4 if len(data.train.shown.values) else 0),
        mining=MiningConfig(),
        evaluate=EvalConfig(mask_known=not data.is_ordered),
    )


def run(config: Config, runtime: Runtime) -> Mapping[str, Any]:
    """Train towers on the interests in `runtime.data_dir`, in rounds of hard negatives, and rank the catalogue for its test."""
    began = time.perf_counter()
    data = load(Path(runtime.data_dir), fingerprint=config.data.interests)

    # D0 -> M0 -> D1 -> M1: each round's model is scored, the last one is the run's.
    metrics: dict[str, float] = {}
    found: dict[str, np.ndarray] = {}
    trained: list[Trained] = []
    for number, model in enumerate(models(config, data, runtime)):
        found = score(config, data, model, data.test)
        means = {name: float(values.mean()) for name, values in found.items()}
        if data.validation.num_examples:  # settings are chosen by it
            chosen_by = score(config, data, model, data.validation)
            means |= {f"validation/{name}": float(values.mean()) for name, values in chosen_by.items()}
        metrics |= {f"eval/round_{number}/{name}": value for name, value in means.items()}
        metrics |= {**{f"eval/{name}": value for name, value in means.items()}, **model.mined}
        trained.append(model)
    np.savez_compressed(Path(runtime.work_dir) / "eval.npz", allow_pickle=False, **found)

    floor = popularity(config, data)
    metrics |= {f"eval/popularity/{name}": float(values.mean()) for name, values in floor.items()}
    return record(config, data, trained, metrics, began=began)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A round's model, what it was trained with, and the vectors of the catalogue."""

    result: EncoderResult
    shared: towers.Shared
    num_slots: int
    items: np.ndarray
    mined: Mapping[str, float]

    @property
    def model(self) -> TwoTower:
        """The towers."""
        assert isinstance(self.result.model, TwoTower)
        return self.result.model

    @property
    def table(self) -> np.ndarray:
        """The rows of ids."""
        return np.asarray(self.result.state.table)


def models(config: Config, data: Interests, runtime: Runtime) -> Iterator[Trained]:
    """Yield M0, M1, ..., each trained on what the model before it mined."""
    rows = kept(data, config.data.fraction)
    targets = data.train.targets.values[data.train.targets.offsets[rows]]
    num_rounds = config.mining.num_rounds

    def fit(number: int, mined: Mined | None) -> Trained:
        hard = None if mined is None else _of_all(mined, rows, data.train.num_examples)
        folder = Path(runtime.work_dir) / f"round_{number}"
        folder.mkdir(parents=True, exist_ok=True)
        part = 0.9 * number / (num_rounds + 1), 0.9 * (number + 1) / (num_rounds + 1)
        training = loop.Runtime.of(runtime, directory=folder, part=part)
        batches = towers.batches_of(
            data, config.train, config.contrast, config.model,
            history_len=config.data.history_len, hard=hard, fraction=config.data.fraction,
        )  # fmt: skip
        shared = towers.shared_of(data, config.model, wanted_counts(data, rows))
        result = train_encoder(
            TwoTower(config.model, rngs=nnx.Rngs(config.train.seed)),
            batches,
            config.train,
            loss=TowerLoss(
                config=config.contrast, prefixes=config.model.prefixes, has_user_rows="id" in config.model.user_features
            ),
            shared=shared,
            num_rows=towers.table_rows(data, config.model),
            embed_dim=config.model.embed_dim,
            runtime=training,
        )
        assert isinstance(result.model, TwoTower)
        items = towers.encode_items(result.model, np.asarray(result.state.table), shared)
        about = {} if mined is None else {f"round_{number}/{k}": v for k, v in hard_negatives.describe(mined).items()}
        return Trained(result=result, shared=shared, num_slots=batches.num_slots, items=items, mined=about)

    def encode(trained: Trained) -> tuple[np.ndarray, np.ndarray]:
        users = towers.encode_users(
            trained.model, trained.table, trained.items, data, data.train,
            history_len=config.data.history_len, rows=rows, wanted=targets,
        )  # fmt: skip
        return users, trained.items

    known = data.known.take(data.train.user[rows])
    yield from hard_negatives.rounds(fit, encode, targets, config.mining, seed=config.train.seed, known=known)


def score(config: Config, data: Interests, trained: Trained, examples: Examples) -> dict[str, np.ndarray]:
    """Return each example's metrics over the whole catalogue."""
    users = towers.encode_users(
        trained.model, trained.table, trained.items, data, examples, history_len=config.data.history_len
    )
    return _recall(config.evaluate, data, examples, users, trained.items)


def popularity(config: Config, data: Interests) -> dict[str, np.ndarray]:
    """Return the same metrics of one order for all: by how often an item is wanted in train."""
    counts = wanted_counts(data, np.arange(data.train.num_examples)).astype(np.float32)
    return _recall(config.evaluate, data, data.test, np.ones((data.test.num_examples, 1), np.float32), counts[:, None])


def record(
    config: Config, data: Interests, trained: list[Trained], metrics: Mapping[str, float], *, began: float
) -> dict[str, Any]:
    """Return what a run leaves: metrics, parameters, what all rounds together consumed, and seconds since `began`."""
    params = two_tower.num_params(config.model, num_users=data.num_users, num_items=data.catalogue.num_items)
    flops = two_tower.flops_per_example(config.model, history_len=config.data.history_len)
    results = [t.result for t in trained]
    steps = sum(r.counts.num_steps for r in results)
    examples = sum(r.counts.num_examples for r in results)
    return {
        "metrics": {**metrics, "train/loss": results[-1].loss},
        "counts": {
            "num_params_dense": params.dense,
            "num_params_embedding": params.embedding,
            "num_params_active": params.active,
            "num_examples": examples,
            "num_steps": steps,
            "train_flops": flops.train(
                num_candidates=sum(t.num_slots * t.result.counts.num_steps for t in trained), num_requests=examples
            ),
        },
        "timing": {
            "compile_secs": sum(r.compile_secs for r in results),
            "train_secs": sum(r.counts.train_secs for r in results),
            "wall_seconds": time.perf_counter() - began,
        },
    }


def _recall(
    config: EvalConfig, data: Interests, examples: Examples, users: np.ndarray, items: np.ndarray
) -> dict[str, np.ndarray]:
    ks = tuple(k for k in config.ks if k <= len(items))
    return recall_metrics(users, items, examples, ks=ks, known=data.known if config.mask_known else None)


def _of_all(mined: Mined, rows: np.ndarray, num_examples: int) -> Hard:
    """Lay what was mined for some train rows out over all of them."""
    out = Hard(np.zeros((num_examples, mined.rows.shape[1]), np.int64), np.zeros((num_examples, mined.mask.shape[1]), bool))
    out.rows[rows], out.mask[rows] = mined
    return out
