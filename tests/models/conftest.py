"""A small shop's features, random batches of them, and every mode of every ranker."""

import dataclasses
import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unisc.data.features import Batch, FeatureSpec, Field, NumericField, Table
from unisc.models import zoo
from unisc.models.trace import count

REQUEST = (
    ("user", "user", "user"),
    ("segment", "user", "segment"),
    ("budget", "user", "segment"),
    ("query", "query", "query"),
    ("query_category", "query", "category"),
    ("query_brand", "query", "brand"),
    ("domain", "domain", "domain"),
    ("scene", "domain", "scene"),
)
CANDIDATE = (
    ("item", "item"),
    ("category_1", "category"),
    ("category_2", "category"),
    ("category_3", "category"),
    ("brand", "brand"),
    ("shop", "shop"),
    ("price", "price"),
    *((f"attribute_{i}", "attribute") for i in range(5)),
)
HISTORY = (("h_item", "item"), ("h_category", "category"), ("h_kind", "kind"), ("h_age", "age"))
TABLES = (
    "user",
    "segment",
    "query",
    "category",
    "brand",
    "domain",
    "scene",
    "item",
    "shop",
    "price",
    "attribute",
    "kind",
    "age",
)


def _spec(*, domains=("search", "rec", "shop"), tasks=("click", "purchase"), history_len=6, without=(), no_history=False):
    fields = [Field(name=n, group=g, level="request", table=t) for n, g, t in REQUEST if g not in without]
    fields += [Field(name=n, group="item", level="candidate", table=t) for n, t in CANDIDATE]
    if not no_history:
        fields += [Field(name=n, group="sequence", level="history", table=t) for n, t in HISTORY]
    numeric = (
        NumericField(name="hour", group="domain", level="request"),
        NumericField(name="log_price", group="item", level="candidate"),
        NumericField(name="touches", group="sequence", level="candidate"),
    )
    return FeatureSpec(
        tables=tuple(Table(name=t, num_rows=20) for t in TABLES),
        fields=tuple(fields),
        numeric=tuple(n for n in numeric if n.group not in without),
        domains=tuple(domains),
        tasks=tuple(tasks),
        history_len=history_len,
    )


def _batch(spec, *, num_candidates=24, num_requests=6, num_unique=50, seed=0, list_len=0):
    rng = np.random.default_rng(seed)

    def ids(*shape):
        return jnp.asarray(rng.integers(0, num_unique, shape), jnp.int32)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    index = np.sort(np.concatenate([np.arange(num_requests), rng.integers(0, num_requests, num_candidates - num_requests)]))
    first, length = np.searchsorted(index, np.arange(num_requests)), np.bincount(index, minlength=num_requests)
    assert not list_len or length.max() <= list_len
    slots = np.arange(list_len)
    lists = np.where(slots < length[:, None], first[:, None] + slots, num_candidates)
    domain = rng.permutation(np.arange(num_requests) % len(spec.domains))
    return Batch(
        unique_rows=jnp.arange(num_unique, dtype=jnp.int32),
        request_ids=ids(num_requests, len(spec.at("request"))),
        candidate_ids=ids(num_candidates, len(spec.at("candidate"))),
        history_ids=ids(num_requests, spec.history_len, len(spec.at("history"))),
        history_mask=jnp.asarray(rng.random((num_requests, spec.history_len)) < 0.7),
        request_numeric=normal(num_requests, len(spec.numeric_at("request"))),
        candidate_numeric=normal(num_candidates, len(spec.numeric_at("candidate"))),
        request_index=jnp.asarray(index, jnp.int32),
        lists=jnp.asarray(lists, jnp.int32),
        domain=jnp.asarray(domain[index], jnp.int32),
        labels=jnp.asarray(rng.random((num_candidates, len(spec.tasks))) < 0.3, jnp.float32),
        weights=jnp.ones((num_candidates, len(spec.tasks)), jnp.float32),
    )


@pytest.fixture(scope="session")
def make_spec():
    """Make the features of a small shop; arguments drop parts of it."""
    return _spec


@pytest.fixture(scope="session")
def make_batch():
    """Make a random batch for some features."""
    return _batch


@pytest.fixture(scope="session")
def make_rows():
    """Make embedding rows for a batch."""
    return lambda batch, embed_dim=4, seed=0: jnp.asarray(
        np.random.default_rng(seed).normal(size=(batch.unique_rows.shape[0], embed_dim)) * 0.5, jnp.float32
    )


@pytest.fixture(scope="session")
def make_full():
    """Make a random batch whose lists are full: 6 requests of 4 candidates each, every id a row of its own."""

    @functools.cache
    def full(spec):
        ids = 6 * len(spec.at("request")) + 24 * len(spec.at("candidate")) + 6 * spec.history_len * len(spec.at("history"))
        return _batch(spec, list_len=14, num_unique=max(ids, 1))._replace(
            request_index=jnp.asarray(np.repeat(np.arange(6), 4), jnp.int32),
            lists=jnp.arange(24, dtype=jnp.int32).reshape(6, 4),
        )

    return full


@pytest.fixture(scope="session")
def num_matmul_flops():
    """Count the FLOPs of every matrix product that a function's trace holds."""
    return lambda function, *args: count(function, *args).products


@dataclasses.dataclass(frozen=True, eq=False)
class Variant:
    """A ranker in one of its modes: options of its ladder, and what is replaced in each size."""

    ranker: str
    options: Mapping[str, Any]
    changes: Mapping[str, Any]

    def config(self, size, *, embed_dim=4, **changes):
        config = zoo.RANKERS[self.ranker].ladder(embed_dim=embed_dim, **self.options)[size]
        return dataclasses.replace(config, **{**self.changes, **changes})


def _variants():
    def add(ranker, name="", changes=MappingProxyType({}), **options):
        found[f"{ranker}-{name}" if name else ranker] = Variant(ranker, options, changes)

    found = {}
    for kind in ("full", "low_rank", "mixture"):
        for structure in ("stacked", "parallel"):
            add("dcn", f"{kind}-{structure}", kind=kind, structure=structure)
    add("din")
    for interaction in ("none", "dot"):
        add("dlrm", interaction, interaction=interaction)
    for isolation in ("none", "dref", "dapga", "both"):
        for context in ("joint", "shared"):
            add("hhsft", f"{isolation}-{context}", {"context": context}, isolation=isolation)
    for projection in ("composite", "heterogeneous"):
        add("hiformer", projection, projection=projection)
    for context in ("joint", "shared"):
        add("hstu", context, {"age_field": "h_age"}, context=context)
        add("onetrans", context, context=context)
        add("transformer", context, context=context)
    for ranker, experts in (("rankmixer", 8), ("tokenmixer_large", 6)):
        add(ranker, "dense")
        add(ranker, "sparse", num_experts=experts, active_experts=2)
    add("wukong")
    return found


VARIANTS = _variants()


def _is_run(name):
    """Tell whether a mode is compiled and run; of HHSFT's eight, alike but for parts, all are counted and four are run."""
    return not name.startswith("hhsft") or name.split("-")[1] in ("none", "both")


@pytest.fixture(scope="session", params=filter(_is_run, VARIANTS))
def variant(request):
    """Return every ranker in every mode, one after the other."""
    return VARIANTS[request.param]


@pytest.fixture(scope="session", params=VARIANTS)
def counted(request):
    """Return every ranker in every mode, none left out."""
    return VARIANTS[request.param]


@pytest.fixture(scope="session")
def replaced():
    """Replace fields of a frozen configuration."""
    return dataclasses.replace


@pytest.fixture(autouse=True)
def strict_promotion():
    """Make a silent change of type an error (not for all tests: optax's own arithmetic needs promotion)."""
    with jax.numpy_dtype_promotion("strict"):
        yield
