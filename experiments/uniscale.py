"""UniScale (arXiv 2603.24226): does scaling data and model together beat scaling the model alone?

Question:  one run answers one point of it: a ranker of one size, trained on one share of one ES3 composition, is scored on the
           next day's search requests, on the lists that were shown and on all candidates.
Command:   `make study`, or `unisc study uniscale --preset smoke`; the points are listed in `sweeps/uniscale.py`.
Cost:      3 to 60 seconds of one core a run; the laptop preset is about 200 runs.
Expected:  the paper reports that foreign samples hurt without isolation (-0.43 % AUC) and help with it (+0.32 %), and that the
           gain grows with the model (+0.12 at 1x to +0.32 at 4x). What this shop gives is in `experiments/LOG.md`.
"""

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from experiments.rankers import record
from unisc.config import Runtime
from unisc.data import manifest
from unisc.data.columns import Columns, load
from unisc.data.schema import COMPOSITIONS
from unisc.errors import InputError
from unisc.models import hhsft, zoo
from unisc.train import loop, ranking
from unisc.train.evaluate import EvalConfig, evaluate
from unisc.train.oracle import load_oracle
from unisc.train.ranking import TrainConfig
from unisc.train.trained import save_model

VERSION = 2
"""Raised by hand whenever the same configuration would give other numbers."""

MEAN_LIST_LEN = 12
"""Candidates a request that batches leave room for; shorter lists only fill fewer of a batch's candidate slots."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Which samples: `samples` is their manifest's fingerprint, `fraction` the share of requests, in hash order, trained on."""

    samples: str
    composition: str
    fraction: float
    history_len: int

    def __post_init__(self) -> None:
        if self.composition not in COMPOSITIONS:
            raise InputError(f"unknown composition {self.composition!r}; the compositions are: {', '.join(COMPOSITIONS)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """One run. `size` is the rung's name on the ladder; everything a law depends on is stated here."""

    size: str
    data: DataConfig
    model: zoo.RankerConfig
    train: TrainConfig
    evaluate: EvalConfig


def run(config: Config, runtime: Runtime) -> Mapping[str, Any]:
    """Train one ranker on one composition and score it on the test day; return metrics, counts and timing."""
    return run_in(config, config.data.composition, runtime)


def run_in(config: Config, folder: str, runtime: Runtime) -> Mapping[str, Any]:
    """Do what `run` does on the samples in `samples/<folder>`, which need not be of the composition's name."""
    root = Path(runtime.data_dir)
    samples = root / "samples" / folder
    return run_on(config, *data(config, samples), root / "logs", runtime, samples=samples)


def run_on(
    config: Config,
    train_columns: Columns,
    test_columns: Columns,
    logs: Path,
    runtime: Runtime,
    *,
    mean_list_len: float = MEAN_LIST_LEN,
    samples: Path | None = None,
) -> Mapping[str, Any]:
    """Do what `run` does on columns already open; `logs` holds the oracle, `mean_list_len` the room that batches leave.

    Where `runtime` keeps models, `samples` says what this one was trained on.
    """
    began = time.perf_counter()

    # The model: five typed tokens, HFA, GFA, then DREF and DAPGA (section 4, figure 3), started at the base rates.
    model = build(config, train_columns)

    # The objective: binary cross-entropy of click and purchase, one head a domain; one pass over the samples.
    trained = ranking.train(
        model,
        train_columns,
        config.train,
        embed_dim=config.model.embed_dim,
        # One shape for every composition, so that a size is compiled once.
        shape=ranking.batch_shape(train_columns, config.train, mean_list_len=mean_list_len),
        runtime=loop.Runtime.of(runtime),
    )

    # The evaluation: search requests of the test day, as shown and in full; the oracle's floor where there is an oracle.
    evaluating = time.perf_counter()
    oracle = load_oracle(logs, test_columns)
    result = evaluate(trained.model, trained.state, test_columns, config.evaluate, oracle=oracle, row_map=trained.row_map)
    result.save(Path(runtime.work_dir) / "eval.npz")
    if runtime.keep_model and samples is not None:
        kept = {"model": config.model, "train": config.train, "list_len": config.evaluate.list_len}
        save_model(Path(runtime.work_dir), trained, **kept, samples=samples)

    found = record(config, trained, result.metrics, began=began)
    found["timing"]["evaluate_secs"] = time.perf_counter() - evaluating
    return found


def data(config: Config, samples: Path) -> tuple[Columns, Columns]:
    """Open the samples of a run: its share of the train split, and the test split.

    Raises:
      InputError: they are not the ones the configuration names.
    """
    found = manifest.read(samples, kind="samples")["fingerprint"]
    if found != config.data.samples:
        raise InputError(f"{samples}: samples {found}, but this run is of {config.data.samples}; plan the sweep again")
    train_columns = load(samples, "train", history_len=config.data.history_len, fraction=config.data.fraction)
    return train_columns, load(samples, "test", history_len=config.data.history_len)


def build(config: Config, columns: Columns) -> nnx.Module:
    """Build the model a run names, each task's logit starting at the log odds of its base rate."""
    rates = np.clip(columns.labels.mean(axis=0, dtype=np.float64), 1e-4, 1 - 1e-4)
    bias = tuple(float(b) for b in np.log(rates / (1 - rates)))
    rngs, spec = nnx.Rngs(config.train.seed), config.train.row_map(columns.spec).spec
    return zoo.build(config.model, spec, rngs=rngs, bias_init=bias)


def with_isolation(config: Config, isolation: hhsft.Isolation) -> Config:
    """Return the same run of an HHSFT with another isolation."""
    assert isinstance(config.model, hhsft.HHSFTConfig)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, isolation=isolation))
