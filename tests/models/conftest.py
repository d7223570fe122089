"""A small shop's features and random batches of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unisc.data.features import Batch, FeatureSpec, Field, NumericField, Table

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
def num_matmul_flops():
    """Count the FLOPs of every matrix product that a function's trace holds."""

    def count(jaxpr):
        total = 0
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "dot_general":
                contracted = eqn.params["dimension_numbers"][0][0]
                sizes = eqn.invars[0].aval.shape
                total += 2 * int(np.prod(eqn.outvars[0].aval.shape)) * int(np.prod([sizes[i] for i in contracted]))
            for value in eqn.params.values():
                if hasattr(value, "jaxpr"):
                    total += count(value.jaxpr)
        return total

    return count


@pytest.fixture(scope="session")
def replaced():
    """Replace fields of a frozen configuration."""
    return dataclasses.replace


@pytest.fixture(autouse=True)
def strict_promotion():
    """Make a silent change of type an error (not for all tests: optax's own arithmetic needs promotion)."""
    with jax.numpy_dtype_promotion("strict"):
        yield
