"""The ranker zoo: how do architectures compare on one set of samples?

Question:  one run trains one ranker of one size on samples of one composition and scores it on the test day: on the lists that
           were shown and on all candidates.
Command:   `unisc train experiments/rankers.py --samples SAMPLES --model hstu --size m --out DIR`; `unisc train --help`.
Cost:      seconds to minutes of one core up to a million dense parameters.
Expected:  the papers disagree about the order of these models (each finds its own first), so none is expected here.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from flax import nnx

from unisc.config import Runtime
from unisc.data import manifest
from unisc.data.columns import Columns, load
from unisc.errors import InputError
from unisc.models import zoo
from unisc.train import loop, ranking
from unisc.train.evaluate import EvalConfig, evaluate
from unisc.train.packed import PackedRun, train_packed
from unisc.train.ranking import TrainConfig
from unisc.train.trained import save_model

VERSION = 2
"""Raised by hand whenever the same configuration would give other numbers."""

EMBED_DIM = 16
LISTWISE = ("din", "hiformer", "hhsft", "hstu", "onetrans", "transformer")
"""Rankers that have, or can have, work done once a list; their batches say where each list stands."""
METRICS = ("eval/exposed/auc_roc", "eval/exposed/gauc", "eval/exposed/mrr", "eval/exposed/log_loss_calibrated")
"""The metrics a comparison shows."""
FLOORS = ()
LIST_LEN = 16
"""Lists are cut here: empty slots cost, and so does a context met twice."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Which samples: `samples` is their manifest's fingerprint, `fraction` the share of requests, in hash order, trained on."""

    samples: str
    fraction: float = 1.0
    history_len: int = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """One run; everything its numbers depend on is stated here."""

    data: DataConfig
    model: zoo.RankerConfig
    train: TrainConfig
    evaluate: EvalConfig

    def __post_init__(self) -> None:
        # Else a model of whole lists would train to the end before its scoring fails.
        if bool(self.train.list_len) != bool(self.evaluate.list_len):
            raise InputError(
                f"evaluate.list_len {self.evaluate.list_len}, train.list_len {self.train.list_len}: set both, or both to 0"
            )


def default(samples: Path, *, model: str = "hhsft", size: str = "m", seed: int = 0) -> Config:
    """Return the configuration of a ranker by name and size on some samples; `unisc.config.override` changes the rest."""
    chosen = zoo.config_of(model, size, embed_dim=EMBED_DIM)
    list_len = LIST_LEN if model in LISTWISE else 0
    return Config(
        data=DataConfig(samples=manifest.read(samples, kind="samples")["fingerprint"]),
        model=chosen,
        train=TrainConfig(
            batch_candidates=512,
            learning_rate=1.5e-3,
            table_learning_rate=0.05,
            weight_decay=1e-5,
            purchase_weight=0.5,
            seed=seed,
            list_len=list_len,
        ),
        evaluate=EvalConfig(list_len=list_len),
    )


def run(config: Config, runtime: Runtime) -> Mapping[str, Any]:
    """Train one ranker on the samples in `runtime.data_dir` and score it on the test day; return metrics, counts, timing."""
    began = time.perf_counter()
    train_columns, test_columns = read(config.data, Path(runtime.data_dir))
    trained = fit(config, train_columns, runtime)
    return _scored(config, runtime, trained, test_columns, began)


def run_packed(configs: Sequence[Config], runtimes: Sequence[Runtime]) -> list[Mapping[str, Any] | Exception]:
    """Train rankers of one structure as one program; return what `run` would of each, in order, or its error.

    Raises:
      InputError: runs that one program cannot train together; the message names what differs.
    """
    began = time.perf_counter()
    data = [read(config.data, Path(runtime.data_dir)) for config, runtime in zip(configs, runtimes, strict=True)]
    started = [start(config, columns, runtime) for config, (columns, _), runtime in zip(configs, data, runtimes, strict=True)]
    trained = train_packed(started, embed_dim=configs[0].model.embed_dim)
    return [
        result if isinstance(result, Exception) else _scored(config, runtime, result, test_columns, began)
        for config, runtime, result, (_, test_columns) in zip(configs, runtimes, trained, data, strict=True)
    ]


def read(data: DataConfig, samples: Path) -> tuple[Columns, Columns]:
    """Map the train and the test split. Raises InputError for other samples than the configuration's."""
    found = manifest.read(samples, kind="samples")["fingerprint"]
    if found != data.samples:
        raise InputError(f"{samples}: samples {found}, but this run is of {data.samples}; give those samples")
    train = load(samples, "train", history_len=data.history_len, fraction=data.fraction)
    return train, load(samples, "test", history_len=data.history_len)


def fit(config: Config, columns: Columns, runtime: Runtime) -> ranking.TrainResult:
    """Train the configured ranker on all of `columns`."""
    run = start(config, columns, runtime)
    return ranking.train(run.model, run.columns, run.config, embed_dim=config.model.embed_dim, runtime=run.runtime)


def start(config: Config, columns: Columns, runtime: Runtime) -> PackedRun:
    """Build the model and say where and how it trains."""
    # The model, each task's logit starting at the log odds of its base rate.
    rates = np.clip(columns.labels.mean(axis=0, dtype=np.float64), 1e-4, 1 - 1e-4)
    bias = tuple(float(b) for b in np.log(rates / (1 - rates)))
    spec = config.train.row_map(columns.spec).spec  # of the tables as stored, which hashing makes smaller
    model = zoo.build(config.model, spec, rngs=nnx.Rngs(config.train.seed), bias_init=bias)

    # The objective: binary cross-entropy of click and purchase, over passes of the samples.
    flops = zoo.ranker_of(config.model).flops_per_example(config.model, spec)
    training = loop.Runtime.of(
        runtime, flops_of=lambda examples, requests: flops.train(num_candidates=examples, num_requests=requests)
    )
    return PackedRun(model=model, columns=columns, config=config.train, runtime=training)


def _scored(
    config: Config, runtime: Runtime, trained: ranking.TrainResult, test_columns: Columns, began: float
) -> Mapping[str, Any]:
    # The evaluation: requests of the test day, as shown and in full.
    result = evaluate(trained.model, trained.state, test_columns, config.evaluate, row_map=trained.row_map)
    result.save(Path(runtime.work_dir) / "eval.npz")
    if runtime.keep_model:
        kept = {"model": config.model, "train": config.train, "list_len": config.evaluate.list_len}
        save_model(Path(runtime.work_dir), trained, **kept, samples=Path(runtime.data_dir))
    return record(config, trained, result.metrics, began=began)


class Trained(Protocol):
    """What of a run's configuration its record is made from."""

    @property
    def model(self) -> zoo.RankerConfig:
        """The ranker."""
        ...

    @property
    def train(self) -> TrainConfig:
        """How it was trained."""
        ...


def record(config: Trained, trained: ranking.TrainResult, metrics: Mapping[str, float], *, began: float) -> dict[str, Any]:
    """Return what a run leaves: its metrics, counts of parameters and of what it consumed, and seconds since `began`."""
    ranker, spec, counts = zoo.ranker_of(config.model), trained.row_map.spec, trained.counts
    params, flops = ranker.num_params(config.model, spec), ranker.flops_per_example(config.model, spec)
    itemsize = 2 if config.train.compute == "bfloat16" else 4
    moved = zoo.bytes_per_example(config.model, spec, itemsize=itemsize)
    return {
        "metrics": {**metrics, "train/loss": trained.loss},
        "counts": {
            "num_params_dense": params.dense,
            "num_params_embedding": params.embedding,
            "num_params_active": params.active,
            "num_examples": counts.num_examples,
            "num_requests": counts.num_requests,
            "num_positives": counts.num_positives,
            "num_steps": counts.num_steps,
            "train_flops": flops.train(num_candidates=counts.num_examples, num_requests=counts.num_requests),
            "forward_bytes": moved.forward(
                num_candidates=counts.num_examples, num_requests=counts.num_requests, num_batches=counts.num_steps
            ),
        },
        "timing": {
            "compile_secs": trained.compile_secs,
            "train_secs": counts.train_secs,
            "wall_seconds": time.perf_counter() - began,
        },
    }
