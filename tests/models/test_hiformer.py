"""HiFormer: its equations, its composite maps, and that it learns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from unisc.models import hiformer
from unisc.models.hiformer import Composite, HiFormer, HiFormerConfig
from unisc.objectives.ranking import bce

PROJECTIONS = ("composite", "heterogeneous")
CONFIG = HiFormerConfig(embed_dim=4, dim=8, rank=3, num_layers=2)


@functools.cache
def build(spec, projection="composite", num_layers=2):
    """Return (dense parameters, jitted score) of a small model."""
    config = HiFormerConfig(embed_dim=4, dim=8, rank=3, num_layers=num_layers, projection=projection)
    graphdef, params = nnx.split(HiFormer(config, spec, rngs=nnx.Rngs(0)), nnx.Param)
    score = jax.jit(lambda dense, rows, batch: nnx.merge(graphdef, nnx.State(dense))(rows, batch))
    return nnx.to_pure_dict(params), score


def norm(x):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + 1e-6)


def layer_by_hand(w, x, queries, projection):
    """One layer for one candidate's (T, 8) tokens, a head at a time; `queries` tokens go on."""
    normed, heads, head_dim = norm(x), 2, 4
    if projection == "composite":
        kernels = [w["project"]["left"][name] for name in ("request", "candidate") if name in w["project"]["left"]]
        left = np.concatenate(kernels) * (32 / x.size)
        low = (normed.reshape(-1) @ left + w["project"]["left"]["bias"]).reshape(3, heads, 3)
        q = np.stack([(low[0, n] @ w["project"]["queries"]["kernel"][n]).reshape(queries, head_dim) for n in range(heads)], 1)
        k, v = (
            np.stack(
                [
                    (low[j, n] @ w["project"]["keys_values"]["kernel"][2 * (j - 1) + n]).reshape(-1, head_dim)
                    for n in range(heads)
                ],
                1,
            )
            for j in (1, 2)
        )
        q, k, v = (y * (32 / 3) for y in (q, k, v))
    else:
        of = {
            name: np.concatenate([w["project"][name][i]["kernel"] for i in sorted(w["project"][name])])
            for name in ("queries", "keys_values")
        }
        q = np.stack([normed[t] @ of["queries"][t] for t in range(queries)]).reshape(queries, heads, head_dim) * (32 / 8)
        kv = np.stack([normed[t] @ of["keys_values"][t] for t in range(len(x))]) * (32 / 8)
        k, v = (y.reshape(-1, heads, head_dim) for y in (kv[:, :8], kv[:, 8:]))
    attended = np.zeros((queries, heads, head_dim))
    for n in range(heads):
        scores = np.exp(q[:, n] @ k[:, n].T * np.sqrt(8.0) / head_dim)
        attended[:, n] = scores / scores.sum(-1, keepdims=True) @ v[:, n]
    out = []
    for t in range(queries):
        y = x[t] + attended[t].reshape(-1) @ w["out"]["kernel"][t] * (32 / 8)
        up = norm(y) @ w["ffn"]["up"]["kernel"][t] * (32 / 8) + w["ffn"]["up"]["bias"][t, 0]
        out.append(y + np.maximum(up, 0.1 * up) @ w["ffn"]["down"]["kernel"][t] * (32 / 16))
    return np.stack(out)


@pytest.mark.parametrize("projection", PROJECTIONS)
@pytest.mark.parametrize("num_layers", [1, 3])
def test_it_computes_its_equations(make_spec, make_batch, make_rows, projection, num_layers):
    spec = make_spec()
    batch = make_batch(spec)
    rows = make_rows(batch)
    config = HiFormerConfig(embed_dim=4, dim=8, rank=3, num_layers=num_layers, projection=projection)
    model = HiFormer(config, spec, rngs=nnx.Rngs(0))
    scores = model(rows, batch)
    assert scores.shape == (24, 2) and scores.dtype == jnp.float32
    w = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    request, candidate = (np.asarray(part) for part in model.tokens(rows, batch))
    assert (len(request), len(candidate)) == hiformer.num_tokens(spec) == (2 + 8 + 1 + 1, 12 + 1 + 1)
    for b in (0, 13, 23):
        x = np.concatenate([request[:, int(batch.request_index[b])], candidate[:, b]])
        for i in range(num_layers):
            x = layer_by_hand(w["layers"][i], x, 2 if i == num_layers - 1 else len(x), projection)
        logits = [norm(x)[t] @ w["head"]["kernel"][t, :, 0] * (32 / 8) + w["bias"][t] for t in range(2)]
        np.testing.assert_allclose(scores[b], logits, rtol=2e-4, atol=1e-5)


def test_tokens_are_those_of_the_fields(make_spec, make_batch, make_rows):
    spec = make_spec()
    batch = make_batch(spec)
    rows = np.asarray(make_rows(batch))
    model = HiFormer(CONFIG, spec, rngs=nnx.Rngs(0))
    request, candidate = model.tokens(make_rows(batch), batch)
    w = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    np.testing.assert_array_equal(request[:2, 3], w["task"])
    query = rows[int(batch.request_ids[3, 3])] @ w["fields"][0]["kernel"][3] * (32 / 4)
    np.testing.assert_allclose(request[2 + 3, 3], query, rtol=1e-5)
    hour = np.asarray(batch.request_numeric[3]) @ w["numeric"][0]["kernel"] * 32
    np.testing.assert_allclose(request[10, 3], hour, rtol=1e-5)
    mask = np.asarray(batch.history_mask[3])
    mean = np.stack([rows[i].reshape(-1) for i in np.asarray(batch.history_ids[3])])[mask].mean(0)
    np.testing.assert_allclose(request[11, 3], mean @ w["mean"]["kernel"] * (32 / 16), rtol=1e-4, atol=1e-5)
    shop = rows[int(batch.candidate_ids[9, 5])] @ w["fields"][1]["kernel"][5] * (32 / 4)
    np.testing.assert_allclose(candidate[5, 9], shop, rtol=1e-5)


def test_a_composite_query_reads_every_token_and_its_map_has_the_rank():
    module = Composite(CONFIG, 2, 3, 5, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    request, candidate = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((2, 1, 8), (3, 1, 8)))
    index = jnp.zeros(1, jnp.int32)

    @jax.jit
    @functools.partial(jax.jacfwd, argnums=(0, 1))
    def slopes(request, candidate):
        return module(request, candidate, index)[0][0, :, 0]

    of_request, of_candidate = (np.asarray(s)[:, :, :, 0].reshape(5 * 4, -1) for s in slopes(request, candidate))
    whole = np.concatenate([of_request, of_candidate], axis=1)  # (tokens x head width, tokens x width) of one head
    assert np.all(whole != 0) and np.linalg.matrix_rank(whole, tol=1e-4) == CONFIG.rank


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_it_learns_a_small_set_by_heart_from_its_bias(make_spec, make_batch, make_rows, projection):
    spec = make_spec()
    batch = make_batch(spec)
    config = HiFormerConfig(embed_dim=4, dim=8, rank=3, projection=projection)
    graphdef, params = nnx.split(HiFormer(config, spec, rngs=nnx.Rngs(0), bias_init=(-0.5, -1.0)))
    rows = make_rows(batch)
    score = jax.jit(lambda params, rows: nnx.merge(graphdef, params)(rows, batch))
    np.testing.assert_allclose(np.mean(score(params, rows), axis=0), [-0.5, -1.0], atol=0.2)
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(params, state):
        loss, grads = jax.value_and_grad(lambda p: bce(score(*p), batch.labels, batch.weights))(params)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, loss

    params, loss = (params, rows), None
    state = optimizer.init(params)
    for _ in range(60):
        params, state, loss = step(params, state)
    assert loss < 0.1
