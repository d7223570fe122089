"""Wukong: its equations against NumPy, the order of its products, and that it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from unisc.data.features import FeatureSpec
from unisc.errors import InputError
from unisc.models.wukong import Wukong, WukongConfig, WukongLayer
from unisc.objectives.ranking import bce

BARE = {"domains": ("search",), "tasks": ("click",), "without": ("query", "domain"), "no_history": True}
CONFIG = WukongConfig(embed_dim=4, hidden_dims=(8, 6), num_layers=2, num_fmb=3, num_lcb=2, rank=2, fmb_dim=7)


def build(config, spec, seed=0, **options):
    """Return parameters and a jitted score."""
    graphdef, params = nnx.split(Wukong(config, spec, rngs=nnx.Rngs(seed), **options), nnx.Param)
    return params, jax.jit(lambda params, rows, batch: nnx.merge(graphdef, params)(rows, batch))


def random_values(rng, params):
    """Give every parameter, biases too, a random value, so that a test sees each of them."""
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)


def linear(x, layer):
    """Apply a stored layer; its kernel times 32 / fan-in is the paper's matrix."""
    return x @ layer["kernel"] * 32 / x.size + layer.get("bias", 0.0)


def leaky(x):
    return np.where(x > 0, x, 0.1 * x)


def normalised(x):
    """Bring rows to mean 0 and variance 1."""
    return (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-6)


def mlp(x, layer):
    return linear(leaky(linear(x, layer["up"])), layer["down"])


def layer_by_hand(config, p, x):
    """Apply one layer to one candidate's X (n, d), by (X X^T) Y, with Y, W_L and the residual's map apart."""
    matrices = p["mix"] * 32 / len(x)
    y, w, residual = np.split(matrices, [config.rank, config.rank + config.num_lcb], axis=1)
    fmb = mlp(normalised(((x @ x.T) @ y).ravel()), p["fmb"]).reshape(config.num_fmb, -1)
    out = np.concatenate([fmb, w.T @ x])
    return normalised(out + (x if len(x) == len(out) else residual.T @ x))


def by_hand(config, spec, params, rows, batch):
    """Score one candidate after another from the equations."""
    rows, p = np.asarray(rows, np.float64), jax.tree.map(lambda p: np.asarray(p, np.float64), nnx.to_pure_dict(params))
    batch, scores = jax.tree.map(np.asarray, batch), []
    for b, r in enumerate(batch.request_index):
        x = list(rows[batch.request_ids[r]])
        real = batch.history_mask[r]
        for field in range(len(spec.at("history"))):
            x.append(rows[batch.history_ids[r, real, field]].mean(axis=0) if real.any() else np.zeros(rows.shape[1]))
        if spec.numeric_at("request"):
            x.append(mlp(batch.request_numeric[r].astype(np.float64), p["request_numeric"]))
        x += list(rows[batch.candidate_ids[b]])
        if spec.numeric_at("candidate"):
            x.append(mlp(batch.candidate_numeric[b].astype(np.float64), p["candidate_numeric"]))
        x = np.stack(x)
        for i in range(config.num_layers):
            x = layer_by_hand(config, p["layers"][i], x)
        x = x.ravel()
        for i in range(len(config.hidden_dims)):
            x = leaky(linear(x, p["hidden"][i]))
        scores.append(linear(x, p["head"]))
    return np.stack(scores)


def test_it_computes_the_papers_equations(make_spec, make_batch, make_rows, replaced):
    for spec, config in ((make_spec(), CONFIG), (make_spec(**BARE), replaced(CONFIG, num_layers=3, num_fmb=1))):
        batch = make_batch(spec, num_candidates=12, num_requests=4)
        batch = batch._replace(history_mask=batch.history_mask.at[1].set(False))
        params, score = build(config, spec)
        params = random_values(np.random.default_rng(1), params)
        expected = by_hand(config, spec, params, make_rows(batch), batch)
        np.testing.assert_allclose(
            score(params, make_rows(batch), batch), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max()
        )


def test_the_residual_is_mapped_only_where_the_number_of_rows_changes(replaced):
    """n_F + n_L = n needs no map, and then the input itself is added."""
    rng, same = np.random.default_rng(0), WukongLayer(CONFIG, 5, rngs=nnx.Rngs(0))
    assert same.mix.shape == (5, 2 + 2) and WukongLayer(CONFIG, 6, rngs=nnx.Rngs(0)).mix.shape == (6, 2 + 2 + 5)
    x = jnp.asarray(rng.normal(size=(3, 5, 4)), jnp.float32)
    same.mix[...] = jnp.zeros_like(same.mix[...])
    same.fmb.up.bias[...] = jnp.zeros_like(same.fmb.up.bias[...])
    np.testing.assert_allclose(same(x, same.combined(x)), normalised(np.asarray(x)), rtol=1e-4, atol=1e-5)


def test_products_cost_by_k_not_by_the_square_of_the_rows(num_matmul_flops):
    """X (X^T Y) of n rows is linear in n: doubling n doubles all of a layer's products."""

    def flops(num_in):
        layer = WukongLayer(CONFIG, num_in, rngs=nnx.Rngs(0))
        x = jnp.ones((1, num_in, 4), jnp.float32)
        return num_matmul_flops(lambda x: layer(x, layer.combined(x)), x)

    assert flops(80) - flops(40) == 2 * (flops(40) - flops(20)) > 0


def test_it_learns_and_starts_at_its_bias(make_spec, make_batch, make_rows):
    spec = make_spec()
    batch = make_batch(spec)
    batch = batch._replace(history_mask=batch.history_mask.at[0].set(False))
    params, score = build(CONFIG, spec, bias_init=(-1.0, -3.0))
    rows = make_rows(batch)
    np.testing.assert_allclose(np.mean(score(params, rows, batch), axis=0), [-1.0, -3.0], atol=0.3)
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(params, state):
        loss, grads = jax.value_and_grad(lambda p: bce(score(p, rows, batch), batch.labels, batch.weights))(params)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, loss, grads

    state, losses = optimizer.init(params), []
    for _ in range(60):
        params, state, loss, grads = step(params, state)
        losses.append(float(loss))
        assert all(np.all(np.isfinite(g)) and np.any(g) for g in jax.tree.leaves(grads))
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("rows_of", [jnp.zeros_like, jnp.ones_like])
def test_equal_embeddings_give_finite_gradients(make_spec, make_batch, make_rows, rows_of):
    """Where all entries of a row are equal its variance is 0, which LN divides by."""
    spec = make_spec()
    batch = make_batch(spec)
    params, score = build(CONFIG, spec)
    rows = rows_of(make_rows(batch))
    grads = jax.grad(lambda p, r: bce(score(p, r, batch), batch.labels, batch.weights), argnums=(0, 1))(params, rows)
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(grads))


def test_data_without_a_feature_is_named():
    spec = FeatureSpec(tables=(), fields=(), numeric=(), domains=("all",), tasks=("click",), history_len=0)
    with pytest.raises(InputError, match="features: none in the data"):
        Wukong(CONFIG, spec, rngs=nnx.Rngs(0))
