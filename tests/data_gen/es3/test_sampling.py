"""Draws of unexposed candidates: against a reference in plain numbers, and their stated chance against how often they come."""

import dataclasses
import functools
import itertools
import shutil

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from data_gen.es3 import build
from data_gen.es3.config import SAMPLING, ES3Config
from data_gen.es3.sampling import with_draws
from data_gen.es3.session import DuckDBSession

POOL = pa.schema(
    [
        ("request_id", pa.int64()),
        ("item_id", pa.int32()),
        ("rank", pa.int16()),
        ("exposed", pa.bool_()),
        ("num_exposed", pa.int64()),
    ]
)
MASK = 2**31 - 1
names = itertools.count()


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    session = DuckDBSession(tmp_path_factory.mktemp("sampling"), threads=1, memory=2**29)
    yield session
    session.close()


def config_of(sampling: str, **fields) -> ES3Config:
    return ES3Config(composition="unexposed", sampling=sampling, **fields)


def pool_of(lists) -> pa.Table:
    """`lists` maps a request_id to rows of (item_id, rank, exposed)."""
    rows = [(r, *c, sum(e for *_, e in cs)) for r, cs in lists.items() for c in cs]
    return pa.Table.from_pylist([dict(zip(POOL.names, row, strict=True)) for row in rows], schema=POOL)


def draw(session, pool: pa.Table, config: ES3Config) -> pa.Table:
    drawn = with_draws(session.load(f"pool_{next(names)}", pool), config)
    return session.fetch(drawn).sort_by([("request_id", "ascending"), ("item_id", "ascending")])


def outcome(table: pa.Table) -> dict:
    columns = (table[c].to_pylist() for c in ("request_id", "item_id", "drawn", "chance"))
    return {(r, i): (d, c) for r, i, d, c in zip(*columns, strict=True)}


def hash_of(request: int, item: int | None, seed: int) -> int:
    words = (seed, request & MASK, (request >> 31) & MASK, item or 0)
    factors = (0x2545F491, 0x5851F42D, 0x14057B7F, 0x369DEA0F)
    h = sum(w * f & MASK for w, f in zip(words, factors, strict=True)) & MASK
    for shift, factor in ((16, 0x21F0AAAD), (15, 0x735A2D97)):
        h = ((h ^ h >> shift) * factor) & MASK
    return h ^ h >> 15


def expected(request: int, candidates, config: ES3Config) -> dict:
    """What with_draws should say of one request, by lists and loops."""
    shown = [item for item, _, exposed in candidates if exposed]
    ranked = [item for _, item in sorted((rank, item) for item, rank, exposed in candidates if not exposed)]
    n = len(ranked)
    wanted = min(n, len(shown) * config.unexposed_per_exposed)
    by_lot = sorted(ranked, key=lambda item: (hash_of(request, item, config.seed), item))
    chance = dict.fromkeys(ranked, wanted / n if n else None)
    if config.sampling == "uniform":
        drawn = set(by_lot[:wanted])
    elif config.sampling == "hard":
        hard = wanted * min(round(config.hard_share * 10**6), 10**6 - 1) // 10**6
        drawn = {*ranked[:hard], *[i for i in by_lot if i not in ranked[:hard]][: wanted - hard]}
        chance = {i: 1.0 if i in ranked[:hard] else (wanted - hard) / (n - hard) for i in ranked}
    elif n:
        strata = min(config.strata, n)
        members = [[i for r, i in enumerate(ranked) if r * strata // n == s] for s in range(strata)]
        assert {len(m) for m in members} <= {n // strata, -(-n // strata)}
        start = hash_of(-1 - request, None, config.seed) % n
        # The draws are marks n apart on a line along which a candidate is `wanted` long.
        ends = np.cumsum([len(m) * wanted for m in members]) + start
        takes = np.bincount(np.searchsorted(ends, n * np.arange(1, wanted + 1)), minlength=strata)
        drawn = {i for m, k in zip(members, takes, strict=True) for i in [j for j in by_lot if j in m][:k]}
    else:
        drawn = set()
    said = {(request, i): (False, 1.0) for i in shown}
    return said | {(request, i): (i in drawn, float(np.float32(chance[i]))) for i in ranked}


@st.composite
def some_lists(draw_of):
    lists = {}
    for request in draw_of(st.lists(st.integers(0, 2**51 - 1), min_size=1, max_size=5, unique=True)):
        items = draw_of(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=30, unique=True))
        num_shown = draw_of(st.integers(1, min(5, len(items))))
        ranks = draw_of(st.lists(st.integers(0, draw_of(st.sampled_from([0, 9, 2**15 - 1]))), min_size=30, max_size=30))
        lists[request] = [(i, rank, place < num_shown) for place, (i, rank) in enumerate(zip(items, ranks, strict=False))]
    return lists


@settings(derandomize=True, max_examples=40, deadline=None, phases=[Phase.generate])  # making lists smaller takes minutes
@given(
    lists=some_lists(),
    sampling=st.sampled_from(SAMPLING),
    per_exposed=st.sampled_from([0, 1, 2, 3, 10, MASK]),
    strata=st.sampled_from([1, 2, 4, 7, 1000, MASK]),
    hard_share=st.sampled_from([0.0, 0.3, 0.5, 0.999, 0.99999999]),
    seed=st.integers(0, MASK),
)
def test_draws_and_chances_are_those_of_the_reference(session, lists, sampling, per_exposed, strata, hard_share, seed):
    config = config_of(sampling, unexposed_per_exposed=per_exposed, strata=strata, hard_share=hard_share, seed=seed)
    found = outcome(draw(session, pool_of(lists), config))
    assert found == {k: v for r, cs in lists.items() for k, v in expected(r, cs, config).items()}
    for request, candidates in lists.items():
        hidden = [i for i, _, exposed in candidates if not exposed]
        wanted = min(len(hidden), per_exposed * (len(candidates) - len(hidden)))
        assert sum(found[request, i][0] for i in hidden) == wanted
        chances = [found[request, i][1] for i in hidden]
        assert sum(chances) == pytest.approx(wanted, rel=1e-6), "chances sum to the number of draws"
        assert per_exposed == 0 or all(0 < c <= 1 for c in chances)


NUM_SHOWN, NUM_HIDDEN, NUM_REQUESTS = 3, 23, 4000
STRATUM = [
    config_of("stratum", strata=4),  # strata of 6 and 5, draws of 2 or 1
    config_of("stratum", strata=3, unexposed_per_exposed=5),  # strata of 8 and 7, draws of 5 or 6
    config_of("stratum", strata=16),  # strata of one or two, most of which draw none
]
HARD = [
    config_of("hard", hard_share=0.5),
    config_of("hard", hard_share=0.99),  # five for certain, one draw for 18
    config_of("hard", hard_share=0.0),
]
ALL = [config_of("uniform"), *STRATUM, *HARD]


def named(config: ES3Config) -> str:
    return f"{config.sampling}-{config.strata}-{config.hard_share}-{config.unexposed_per_exposed}"


@pytest.fixture(scope="module")
def draw_many(session):
    """Draws for the same list under thousands of request ids: drawn and chance (requests, hidden candidates by pre-rank)."""

    @functools.cache
    def draws_of(config: ES3Config) -> tuple[np.ndarray, np.ndarray]:
        size = NUM_SHOWN + NUM_HIDDEN
        rank = np.random.default_rng(0).permutation(size)  # item ids tell nothing of the rank
        columns = [
            np.repeat(np.arange(NUM_REQUESTS), size),
            *(np.tile(column, NUM_REQUESTS) for column in (np.arange(size), rank, rank < NUM_SHOWN)),
            np.full(NUM_REQUESTS * size, NUM_SHOWN),
        ]
        found = draw(session, pa.table(columns, names=POOL.names).cast(POOL), dataclasses.replace(config, seed=11))
        drawn, chance = (found[c].to_numpy().reshape(NUM_REQUESTS, size)[:, np.argsort(rank)] for c in ("drawn", "chance"))
        assert not drawn[:, :NUM_SHOWN].any(), "what was exposed is in the sample already"
        assert (chance[:, :NUM_SHOWN] == 1).all()
        assert (drawn.sum(axis=1) == NUM_SHOWN * config.unexposed_per_exposed).all()
        return drawn[:, NUM_SHOWN:], chance[:, NUM_SHOWN:].astype(float)

    return draws_of


@pytest.mark.parametrize("config", ALL, ids=named)
def test_every_place_is_drawn_as_often_as_its_chance_says(draw_many, config):
    drawn, chance = draw_many(config)
    assert (chance == chance[0]).all()
    p, often = chance[0], drawn.mean(axis=0)
    sure = p == 1
    assert (often[sure] == 1).all()
    z = (often - p)[~sure] / np.sqrt(p * (1 - p) / NUM_REQUESTS)[~sure]
    assert np.abs(z).max() < 5
    assert np.abs(z).max() > 0.5, "draws spread over requests by rote would not vary"


@pytest.mark.parametrize("config", ALL, ids=named)
def test_weights_of_one_over_chance_give_the_sum_over_the_whole_list(draw_many, config):
    drawn, chance = draw_many(config)
    for values in (np.ones(NUM_HIDDEN), np.arange(NUM_HIDDEN), np.exp(-0.3 * np.arange(NUM_HIDDEN))):
        estimates = (drawn * values / chance).sum(axis=1)
        error = estimates.std() / np.sqrt(NUM_REQUESTS)
        # Where nothing varies, what is left is the rounding of float32 chances.
        assert abs(estimates.mean() - values.sum()) < 5 * error + 1e-6 * values.sum()


@pytest.mark.parametrize("config", STRATUM, ids=named)
def test_strata_are_drawn_from_in_proportion_and_chances_are_those_of_uniform(draw_many, config):
    drawn, chance = draw_many(config)
    wanted = NUM_SHOWN * config.unexposed_per_exposed
    stratum = np.arange(NUM_HIDDEN) * config.strata // NUM_HIDDEN
    for s in range(config.strata):
        share = wanted * (stratum == s).sum() / NUM_HIDDEN
        assert set(drawn[:, stratum == s].sum(axis=1)) == {int(np.floor(share)), int(np.ceil(share))}
    assert np.unique(chance) == pytest.approx([wanted / NUM_HIDDEN])
    # Of what follows the pre-rank, strata leave less to luck than as many uniform draws, whose variance is known.
    values = np.arange(NUM_HIDDEN)
    luck = NUM_HIDDEN**2 * (1 - wanted / NUM_HIDDEN) / wanted * values.var(ddof=1)
    assert (drawn * values / chance).sum(axis=1).var() < 0.5 * luck


@pytest.mark.parametrize("config", HARD, ids=named)
def test_hard_first_takes_the_best_ranked_for_certain(draw_many, config):
    drawn, chance = draw_many(config)
    hard = int(config.hard_share * NUM_SHOWN * config.unexposed_per_exposed)
    assert drawn[:, :hard].all()
    assert (chance[:, :hard] == 1).all()
    assert (chance[:, hard:] < 1).all()
    assert drawn[:, hard:].any(axis=0).all(), "everybody below can be drawn"


def test_the_chance_of_the_draw_becomes_the_probability_of_the_sample(busy_logs, tmp_path, read_samples):
    build(busy_logs, tmp_path / "out", config_of("hard", hard_share=0.5), threads=1)
    for row in read_samples(tmp_path / "out").values():  # four shown, ten hidden: four draws for certain, four of six
        for c in row["candidates"].values():
            assert c["probability"] == pytest.approx(1 if c["rank"] < 8 else 4 / 6)
        assert len(row["candidates"]) == 12


def busy_pool() -> pa.Table:
    """Lists of many lengths, with equal ranks, in no order."""
    rng = np.random.default_rng(5)
    lists = {}
    for request in range(300):
        items = rng.permutation(1000)[: rng.integers(1, 60)].tolist()
        num_shown = int(rng.integers(1, min(8, len(items)) + 1))
        ranks = rng.integers(0, 30, len(items)).tolist()
        lists[request * 2**33 + request] = [(i, ranks[k], k < num_shown) for k, i in enumerate(items)]
    pool = pool_of(lists)
    return pool.take(rng.permutation(len(pool)))


@pytest.mark.parametrize("sampling", SAMPLING)
def test_draws_of_a_request_do_not_depend_on_other_requests(session, sampling):
    config, pool = config_of(sampling, seed=3), busy_pool()
    whole = outcome(draw(session, pool, config))
    some = pool.filter(pa.compute.less(pool["request_id"], 100 * 2**33)).sort_by("item_id")
    alone = outcome(draw(session, some, config))
    assert 0 < len(alone) < len(whole)
    assert alone.items() <= whole.items()
    others = outcome(draw(session, pool, dataclasses.replace(config, seed=4)))
    assert {k: c for k, (_, c) in others.items()} == {k: c for k, (_, c) in whole.items()}
    assert others != whole


@pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java 17, and no java is on the path")
@pytest.mark.filterwarnings("ignore")  # PySpark's own, about versions of pandas that nothing here uses
def test_spark_draws_the_same(session, tmp_path):
    pytest.importorskip("pyspark", reason="the extra `spark` is not installed")
    from data_gen.es3.spark import Spark

    engine = Spark(master="local[2]", threads=None, memory=2**30)
    try:
        other = engine.open(tmp_path / "spark")
        for sampling in SAMPLING:
            config = config_of(sampling, strata=3, hard_share=0.4, seed=9)
            assert draw(other, busy_pool(), config).equals(draw(session, busy_pool(), config)), sampling
        other.close()
    finally:
        engine.close()
