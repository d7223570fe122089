"""The reference ranker: its equations, its sizes, and what each context may see."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from unisc.data.features import Field
from unisc.errors import InputError
from unisc.models import transformer
from unisc.models.transformer import Transformer, TransformerConfig
from unisc.nn.slots import CONTEXTS
from unisc.objectives.ranking import bce

CONFIG = TransformerConfig(embed_dim=4, dim=8, num_layers=2, num_heads=2, ffn_hidden=12)


@functools.cache
def build(spec, context="joint", seed=0):
    """Return (dense parameters, jitted score) of a small model."""
    config = TransformerConfig(embed_dim=4, dim=8, num_layers=2, num_heads=2, ffn_hidden=12, context=context)
    graphdef, params = nnx.split(Transformer(config, spec, rngs=nnx.Rngs(seed)), nnx.Param)
    score = jax.jit(lambda dense, rows, batch: nnx.merge(graphdef, nnx.State(dense))(rows, batch))
    return nnx.to_pure_dict(params), score


@pytest.fixture
def full(make_spec, make_batch):
    """A batch whose lists are full: 6 requests of 4 candidates."""
    batch = make_batch(make_spec(), list_len=14)
    return batch._replace(
        request_index=jnp.asarray(np.repeat(np.arange(6), 4), jnp.int32),
        lists=jnp.arange(24, dtype=jnp.int32).reshape(6, 4),
    )


def norm(x):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + 1e-6)


def by_hand(dense, rows, batch, b, context):
    """Score one candidate, one token and one head at a time."""
    dense, rows = jax.tree.map(np.asarray, dense), np.asarray(rows)
    width, (dim, hidden), heads = rows.shape[1], (8, 12), 2
    r = int(batch.request_index[b])

    def features(part, ids, numbers):
        tokens = []
        if "fields" in part:
            kernel, bias = part["fields"]["kernel"] * (32 / width), part["fields"]["bias"]
            tokens += [rows[int(i)] @ kernel[m] + bias[m, 0] for m, i in enumerate(ids)]
        return tokens + [float(x) * part["slope"][p] + part["offset"][p] for p, x in enumerate(numbers)]

    x = features(dense.get("request", {}), batch.request_ids[r], batch.request_numeric[r])
    seen = [True] * len(x)
    if "history" in dense:
        for s in range(batch.history_mask.shape[1]):
            entry = np.concatenate([rows[int(i)] for i in batch.history_ids[r, s]])
            x.append(entry @ dense["history"]["kernel"] * (32 / entry.size) + dense["history"]["bias"])
            seen.append(bool(batch.history_mask[r, s]))
    own = features(dense["candidate"], batch.candidate_ids[b], batch.candidate_numeric[b])
    num_context, x, seen = len(x), np.array(x + own), np.array(seen + [True] * len(own))
    is_own = np.arange(len(x)) >= num_context
    for layer in range(2):
        w = dense["blocks"][layer]
        q, k, v = np.split(norm(x) @ w["qkv"]["kernel"] * (32 / dim), 3, axis=-1)
        attended = np.zeros_like(x)
        for t in range(len(x)):
            keys = seen & (is_own[t] | ~is_own) if context == "shared" else seen
            if not keys.any():
                continue
            for n in range(heads):
                part = slice(n * dim // heads, (n + 1) * dim // heads)
                scores = np.exp(k[keys, part] @ q[t, part] * np.sqrt(8.0) / (dim // heads))
                attended[t, part] = scores / scores.sum() @ v[keys, part]
        x = x + attended @ w["out"]["kernel"] * (32 / dim)
        gate, up = np.split(norm(x) @ w["up"]["kernel"] * (32 / dim), 2, axis=-1)
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w["down"]["kernel"] * (32 / hidden)
    pooled = norm(x)[seen if context == "joint" else is_own].mean(0)
    return pooled @ dense["head"]["kernel"] * (32 / dim) + dense["head"]["bias"]


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("parts", [{}, {"without": ("user", "query", "domain")}, {"no_history": True}])
def test_it_computes_its_equations(make_spec, make_batch, make_rows, context, parts):
    spec = make_spec(**parts)
    batch = make_batch(spec, list_len=14)
    dense, score = build(spec, context)
    scores = score(dense, make_rows(batch), batch)
    assert scores.shape == (24, 2) and scores.dtype == jnp.float32
    for b in (0, 7, 23):
        np.testing.assert_allclose(scores[b], by_hand(dense, make_rows(batch), batch, b, context), rtol=2e-4, atol=1e-5)


def test_no_gradient_crosses_candidates_and_both_contexts_have_the_same_parameters(make_spec, full, make_rows):
    spec = make_spec()
    params, scores = {}, {}
    for context in CONTEXTS:
        params[context], score = build(spec, context)

        @jax.jit
        def slope(x, b, score=score, params=params[context]):
            return jax.grad(lambda x: jnp.sum(score(params, make_rows(full), full._replace(candidate_numeric=x))[b]))(x)

        for b in (0, 6, 23):
            across = np.abs(slope(full.candidate_numeric, b)).max(axis=1)
            assert across[b] > 0 and not np.any(np.delete(across, b))
        scores[context] = score(params["joint"], make_rows(full), full)
    assert jax.tree.all(jax.tree.map(np.array_equal, params["joint"], params["shared"]))
    assert np.abs(scores["joint"] - scores["shared"]).max() > 1e-4


def test_parameters_of_the_reference_ranker(make_spec):
    """Its four blocks: 4 d^2 + 3 d F each."""
    spec = make_spec()
    for dim, hidden in ((64, 192), (128, 384), (256, 704)):
        config = transformer.reference(dim)
        deeper = TransformerConfig(embed_dim=32, dim=dim, num_layers=8, num_heads=4, ffn_hidden=hidden)
        blocks = transformer.num_params(deeper, spec).dense - transformer.num_params(config, spec).dense
        assert blocks == 4 * (4 * dim**2 + 3 * dim * hidden)
    with pytest.raises(InputError, match="dim: no reference ranker of width 100; give one of 64, 128, 256"):
        transformer.reference(100)


@pytest.mark.parametrize("context", CONTEXTS)
def test_it_learns_which_candidates_match_the_history(make_spec, make_batch, make_rows, context):
    """The label says whether the candidate's item stands in the history: context and candidate must meet."""
    spec = make_spec(tasks=("click",))
    batch = make_batch(spec, num_candidates=64, num_requests=16, list_len=14, num_unique=8)
    items, mask = np.asarray(batch.history_ids[..., 0]), np.asarray(batch.history_mask)
    index, own = np.asarray(batch.request_index), np.asarray(batch.candidate_ids[:, 0])
    hit = np.any((items[index] == own[:, None]) & mask[index], axis=-1)
    batch = batch._replace(labels=jnp.asarray(hit[:, None], jnp.float32))
    dense, score = build(spec, context)
    params, optimizer = (dense, make_rows(batch)), optax.adam(1e-2)

    @jax.jit
    def step(params, state):
        loss, grads = jax.value_and_grad(lambda p: bce(score(*p, batch), batch.labels, batch.weights))(params)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, loss

    state, losses = optimizer.init(params), []
    for _ in range(60):
        params, state, loss = step(params, state)
        losses.append(float(loss))
    assert losses[0] == pytest.approx(np.log(2), abs=0.1)
    assert losses[-1] < 0.1


def test_a_ranker_without_candidate_features_is_named(make_spec, replaced):
    blind = replaced(make_spec(), fields=(Field(name="user", group="user", level="request", table="user"),), numeric=())
    with pytest.raises(InputError, match="candidate features 0"):
        Transformer(CONFIG, blind, rngs=nnx.Rngs(0))
