"""Where does pooling foreign samples start to hurt, and where does isolation start to pay?

Question:  one run answers one point: a ranker of one size, with or without the modules that isolate domains, trained on a
           shop's own search samples and a share of its foreign ones, is scored on the search requests that follow. The shop is
           known: `overlap` says what share of their rules its domains have in common.
Command:   `python -m sweeps.phase DIR --preset smoke`; the points are listed in `sweeps/phase.py`.
Cost:      4 to 30 seconds of one core a run.
Expected:  foreign samples, which obey other rules where the overlap is small, should help the more the more is shared.
           Isolation should pay where they would hurt. UniScale (arXiv 2603.24226) reports one point of this
           plane, on a platform whose overlap nobody knows: -0.43 % AUC without isolation, +0.32 % with it.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int8

from experiments import uniscale
from unisc.config import Runtime
from unisc.data import manifest
from unisc.data.columns import Columns, load
from unisc.errors import InputError
from unisc.models.hhsft import HHSFTConfig
from unisc.train.evaluate import EvalConfig
from unisc.train.ranking import TrainConfig

VERSION = 1
"""Raised by hand whenever the same configuration would give other numbers."""

COMPOSITION = "searchified"
"""Of what ES3 calls so, the shops here have only shown search lists and pseudo requests: see `sweeps.phase.es3`."""

TARGET = 0
"""Code of the search domain, the first of a manifest's domains."""

MEAN_LIST_LEN = 8
"""No longer than lists are in any mix of own and foreign ones, so that a step holds as many candidates whatever the share."""


Queries = Literal["pseudo", "none"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Which samples: those of the shop of this `overlap` and `world` (its random seed), by their manifest's fingerprint.

    Of the shop's search requests the share `own` is trained on and of the others the share `foreign`, both in hash order, so
    that a smaller share is nested in a larger one. `queries` "pseudo" leaves foreign requests the query that ES3 found for the
    clicked item; "none" takes it from them, as a feed has none.
    """

    samples: str
    overlap: float
    world: int
    own: float
    foreign: float
    queries: Queries
    history_len: int

    def __post_init__(self) -> None:
        for name in ("overlap", "own", "foreign"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} {getattr(self, name)}: give a share from 0 to 1")
        if self.own == 0:
            raise InputError("own 0: give a share above 0, there is no ranker of search without its samples")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """One run. `size` is the rung's name on the ladder; everything a comparison depends on is stated here."""

    size: str
    data: DataConfig
    model: HHSFTConfig
    train: TrainConfig
    evaluate: EvalConfig


def run(config: Config, runtime: Runtime) -> Mapping[str, Any]:
    """Train one ranker on own and foreign samples and score it on the test day's search; return metrics, counts and timing."""
    shop = folder(Path(runtime.data_dir), config.data.overlap, config.data.world)
    samples = shop / "samples" / COMPOSITION
    found = manifest.read(samples, kind="samples")["fingerprint"]
    if found != config.data.samples:
        raise InputError(f"{samples}: samples {found}, but this run is of {config.data.samples}; plan the sweep again")
    pooled = load(samples, "train", history_len=config.data.history_len)
    pooled = pooled.only(kept(pooled.domain, config.data))
    if config.data.queries == "none":
        pooled = without_queries(pooled)
    result = uniscale.run_on(
        uniscale.Config(
            size=config.size,
            data=uniscale.DataConfig(samples=found, composition=COMPOSITION, fraction=1.0, history_len=config.data.history_len),
            model=config.model,
            train=config.train,
            evaluate=config.evaluate,
        ),
        pooled,
        load(samples, "test", history_len=config.data.history_len),
        shop / "logs",
        runtime,
        mean_list_len=MEAN_LIST_LEN,
    )
    own, foreign = volumes(pooled)
    return {**result, "counts": {**result["counts"], "num_examples_own": own, "num_examples_foreign": foreign}}


def folder(root: Path, overlap: float, world: int) -> Path:
    """Return where the shop of an overlap and a world lies: it holds `logs/` and `samples/searchified/`."""
    return root / "shops" / f"overlap-{overlap:g}-world-{world}"


def kept(domain: Int8[np.ndarray, " Q"], data: DataConfig) -> Bool[np.ndarray, " Q"]:
    """Say which requests a run trains on: the first of search and the first of the others, as they lie in hash order."""
    mine = domain == TARGET
    chosen = np.zeros(len(domain), bool)
    for side, share in ((mine, data.own), (~mine, data.foreign)):
        chosen |= side & (np.cumsum(side) <= round(share * int(side.sum())))
    return chosen


def without_queries(columns: Columns) -> Columns:
    """Return the columns with all that is known of foreign requests' queries absent, the first row of each table."""
    offsets, fields = columns.spec.table_offsets(), columns.request_fields.copy()
    for place, field in enumerate(columns.spec.at("request")):
        if field.group == "query":
            fields[columns.domain != TARGET, place] = offsets[field.table]
    return dataclasses.replace(columns, request_fields=fields)


def volumes(columns: Columns) -> tuple[int, int]:
    """Count the samples (candidates) of search and of the other domains."""
    lengths = np.diff(columns.candidate_offsets)
    own = int(lengths[columns.domain == TARGET].sum())
    return own, int(lengths.sum()) - own
