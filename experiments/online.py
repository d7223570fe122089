"""The simulated online test: which of two trained rankers sells more when it is in charge of the shop's pages?

Question:  both rankers serve the same visitors, requests, lists and random numbers, each in a world of its own; clicks,
           purchases and revenue a request, by the shop's truth, are compared visitor by visitor.
Command:   `unisc ab CONTROL TREATMENT --logs DIR --requests 1000000`; a ranker is a folder that training left, or one of the
           shop's own: shop (its logging policy), random, oracle.
Cost:      see BENCHMARKS.md; the rankers' forward passes are nearly all of it.
Expected:  the papers' online gains (+1.70 % purchases, +2.04 % GMV) follow gains of some tenths of a point of AUC; what this
           shop gives is in `experiments/LOG.md`.

The test begins where the rankers' training data ended (`test_start`) and lasts `days`. Visitors come as often as they did in
the logs; more requests than they make in that time are further lives: the same days lived again with other random numbers.
What is fed back in each world and what is not: `data_gen.marketplace.online`. What rankers see: `experiments.asof`.
"""

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds

from data_gen.marketplace import config as shop
from data_gen.marketplace.calibrate import open_world
from data_gen.marketplace.config import DOMAINS, SEARCH, MarketplaceConfig
from data_gen.marketplace.generate import GENERATOR
from data_gen.marketplace.online import HEAD, OWN, STREAM, TAIL, TORSO, Asked, Outcome, Policy, Terms, contest
from data_gen.marketplace.takeover import Standing, standing
from data_gen.marketplace.world import World
from experiments.asof import Features
from unisc import cpu
from unisc.config import from_plain
from unisc.data import manifest
from unisc.errors import InputError
from unisc.train.scorer import Scorer
from unisc.train.trained import About, load_model, model_file, read_about

BLOCK_VISITORS = 2_000
"""Visitors simulated side by side, lives counted apart: enough that the turns of a block fill the rankers' batches."""
BATCH_CANDIDATES = 1_024
HEAD_SHARE, TORSO_SHARE = 1 / 3, 2 / 3
"""The most frequent queries that make up a third of the logged searches are the head, the next third is the torso."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How much is simulated. `domains` are those the rankers are in charge of: "search", or "all"."""

    requests: int
    seed: int = 0
    days: int = 7
    domains: str = "search"

    def __post_init__(self) -> None:
        for name in ("requests", "days"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)}: give at least 1")
        if self.seed < 0:
            raise InputError(f"seed {self.seed}: give at least 0")
        if self.domains not in ("search", "all"):
            raise InputError(f"domains {self.domains!r}: unknown; give search or all")


@dataclass(frozen=True, kw_only=True, slots=True)
class Shop:
    """A generated shop as its logs describe it: what is needed to open its world and judge a test in it."""

    logs: Path
    fingerprint: str
    config: MarketplaceConfig
    start_ts: int
    query_class: np.ndarray


@dataclass(frozen=True, kw_only=True, slots=True)
class _Block:
    shard: int
    first_life: int
    counts: np.ndarray  # (lives, U)


def open_shop(logs: Path) -> Shop:
    """Return the shop that wrote `logs`.

    Raises:
      InputError: no logs there, logs of no generated shop, logs without an oracle, or of another version of the generator.
    """
    made = manifest.read(logs, kind="logs")
    if made.get("generator") != GENERATOR:
        raise InputError(f"{logs}: not logs of a generated shop, so nobody knows what would have sold; give a marketplace's")
    if "oracle" not in made["counts"]:
        raise InputError(f"{logs}: logs without an oracle; give logs that `python -m data_gen.marketplace generate` made")
    version = made["versions"]["marketplace"]
    if version != shop.VERSION:
        raise InputError(
            f"{logs}: made by version {version} of the marketplace, this is {shop.VERSION}; make logs and rankers anew"
        )
    config = from_plain(MarketplaceConfig, made["config"])
    source = ds.dataset(sorted(map(str, (logs / "requests").glob("*.parquet"))))
    asked = source.to_table(columns=["query_id"], filter=ds.field("ts") < made["test_start"])["query_id"].drop_null()
    count = np.bincount(asked.to_numpy(), minlength=config.queries)
    return Shop(
        logs=logs,
        fingerprint=made["fingerprint"],
        config=config,
        start_ts=made["test_start"],
        query_class=classify(count),
    )


def classify(count: np.ndarray) -> np.ndarray:
    """Return HEAD, TORSO or TAIL of each query (Q,) by how often it was searched for (Q,)."""
    order = np.argsort(-count, kind="stable")
    before = (np.cumsum(count[order]) - count[order]) / max(count.sum(), 1)
    out = np.empty(len(count), dtype=np.int8)
    out[order] = np.select([before < HEAD_SHARE, before < TORSO_SHARE], [HEAD, TORSO], TAIL)
    out[count == 0] = TAIL
    return out


def check_rankers(shop: Shop, rankers: Sequence[str]) -> list[About | None]:
    """Return what each ranker is, None for the shop's own.

    Raises:
      InputError: not a ranker, or one of another shop or schema.
    """
    features = Features(shop.logs)
    return [None if ranker in OWN else _check(shop, features, ranker) for ranker in rankers]


def check_different(control: str, treatment: str) -> None:
    """Raise InputError if a control is its own treatment."""
    if control == treatment or (
        not {control, treatment} & set(OWN)
        and model_file(Path(control)).read_bytes() == model_file(Path(treatment)).read_bytes()
    ):
        raise InputError(f"{treatment}: control and treatment are the same ranker; give two")


def _check(shop: Shop, features: Features, ranker: str) -> About:
    about = read_about(Path(ranker))
    if about.logs != shop.fingerprint:
        raise InputError(
            f"{ranker}: trained on samples of another shop (logs {about.logs or 'without a name'}) than {shop.logs}"
            f" ({shop.fingerprint}); give a ranker trained on samples of these logs"
        )
    features.spec(about, ranker)
    return about


def simulate(
    shop: Shop,
    rankers: Sequence[str],
    settings: Settings,
    *,
    workers: int,
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Put each ranker in charge of a world of its own; the outcome is the same for any number of `workers`.

    `rankers` are folders, or names of OWN; `progress` is called with (requests done, requests in all).

    Raises:
      InputError: as `check_rankers`; a worker died.
    """
    check_rankers(shop, rankers)
    blocks = _blocks(shop.config, settings)
    done, found = 0, []
    for block, outcome in zip(blocks, _run(shop, rankers, settings, blocks, workers), strict=True):
        found.append(outcome)
        done += int(block.counts.sum())
        if progress is not None:
            progress(done, settings.requests)
    return Outcome(
        user_id=np.concatenate([o.user_id for o in found]),
        life=np.concatenate([o.life for o in found]),
        requests=np.concatenate([o.requests for o in found]),
        sums=np.concatenate([o.sums for o in found], axis=1),
    )


def _blocks(config: MarketplaceConfig, settings: Settings) -> list[_Block]:
    """Share the requests out among lives and visitors, and cut these into blocks of one shard and some lives each."""
    from data_gen.marketplace.world import build_world

    requests_of = build_world(config).requests_of
    natural = config.requests / config.days * settings.days
    lives = max(1, round(settings.requests / natural))
    rng = np.random.default_rng([settings.seed, STREAM, 0])
    share = np.diff(np.linspace(0, settings.requests, lives + 1).round().astype(np.int64))
    counts = np.stack([rng.multinomial(n, requests_of / requests_of.sum()) for n in share])
    at_once = max(1, min(BLOCK_VISITORS, 2**26 // config.items) // config.shard_users)
    blocks = []
    for shard in range(config.shards):
        users = slice(shard * config.shard_users, (shard + 1) * config.shard_users)
        for life in range(0, lives, at_once):
            blocks.append(_Block(shard=shard, first_life=life, counts=counts[life : life + at_once, users]))
    return blocks


class _Worker:
    """What a process needs for any block: the world, the rankers compiled, and the shard it last took over."""

    def __init__(self, shop: Shop, rankers: Sequence[str], settings: Settings, bias: np.ndarray | None):
        self.shop, self.settings = shop, settings
        self.world: World = open_world(shop.config, bias)
        mean = (shop.config.candidates_min * 2 + shop.config.candidates_max) / 3
        features = Features(shop.logs)
        self.policies: list[Policy] = [
            ranker if ranker in OWN else ranker_policy(Path(ranker), features, mean_list_len=mean)  # type: ignore[list-item]
            for ranker in rankers
        ]
        in_charge = (SEARCH,) if settings.domains == "search" else tuple(range(len(DOMAINS)))
        self.terms = Terms(start_ts=shop.start_ts, days=settings.days, in_charge=in_charge, query_class=shop.query_class)
        self._shard: int | None = None
        self._standing: Standing | None = None

    def __call__(self, block: _Block) -> Outcome:
        if self._shard != block.shard or self._standing is None:
            self._shard, self._standing = block.shard, standing(self.world, block.shard, self.terms.start_ts)
        return contest(
            self.world,
            self._standing,
            self.policies,
            self.terms,
            counts=block.counts,
            first_life=block.first_life,
            seed=(self.settings.seed, STREAM, 1, block.shard, block.first_life),
        )


def ranker_policy(directory: Path, features: Features, *, mean_list_len: float) -> Callable[[Asked], np.ndarray]:
    """Return a trained ranker as a policy: it orders by its click logit."""
    trained = load_model(directory)
    features.spec(trained.about, str(directory))
    scorer = Scorer(trained, batch_candidates=BATCH_CANDIDATES, mean_list_len=mean_list_len)
    return lambda asked: scorer(features.columns(asked, trained.about))


_worker: _Worker | None = None


def _start(*arguments: Any) -> None:
    global _worker
    _worker = _Worker(*arguments)


def _work(block: _Block) -> Outcome:
    assert _worker is not None
    return _worker(block)


def _run(shop: Shop, rankers: Sequence[str], settings: Settings, blocks: Sequence[_Block], workers: int) -> Iterator[Outcome]:
    if workers < 1:
        raise InputError(f"workers {workers}: give at least 1")
    if workers == 1:
        yield from map(_Worker(shop, rankers, settings, None), blocks)
        return
    bias = open_world(shop.config).bias
    with _one_core_each():
        pool = ProcessPoolExecutor(
            min(workers, len(blocks)),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start,
            initargs=(shop, rankers, settings, bias),
        )
        try:
            yield from pool.map(_work, blocks)
        except BrokenProcessPool as e:
            raise InputError(
                "a worker of the online test died, most likely for memory; give fewer --workers (1 runs in this process)"
            ) from e
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _one_core_each() -> Iterator[None]:
    """Give processes started inside an environment in which JAX uses one core."""
    before = dict(os.environ)
    os.environ.update(cpu.training_environment(1))
    os.environ["NPROC"] = "1"
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def read_record(directory: Path) -> dict[str, Any]:
    """Return what the run that trained a ranker recorded; empty where there is no record beside it."""
    file = model_file(directory)
    for folder in (file.parent, file.parent.parent):
        if (folder / "record.json").is_file():
            return json.loads((folder / "record.json").read_text())
    return {}
