"""RankMixer: its equations by loops, published sizes, and that routing trains for the task."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from scipy.special import expit

from unisc.models.rankmixer import (
    GELU_GAIN,
    L1_GROWTH,
    L1_START,
    PUBLISHED,
    RankMixer,
    RankMixerConfig,
    TokenFFN,
    flops_per_example,
    num_params,
)
from unisc.objectives.ranking import bce

DENSE = RankMixerConfig(embed_dim=4, num_tokens=4, dim=8, ffn_dim=12)
SPARSE = RankMixerConfig(embed_dim=4, num_tokens=4, dim=8, ffn_dim=12, num_experts=3, active_experts=1)
BARE = {"domains": ("search",), "tasks": ("click",), "without": ("query",), "no_history": True}


@functools.cache
def build(spec, config=DENSE, seed=0):
    """Return the parameters, the other variables, and jitted scoring and training passes of a model."""
    graphdef, params, rest = nnx.split(RankMixer(config, spec, rngs=nnx.Rngs(seed)), nnx.Param, ...)

    def merged(params, rest):
        return nnx.merge(graphdef, nnx.State(params), nnx.State(rest))

    def train(params, rest, rows, batch):
        model = merged(params, rest)
        logits, penalty = model.with_penalty(rows, batch, lambda x: bce(x, batch.labels, batch.weights))
        return logits, penalty, nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Param)))

    score = jax.jit(lambda params, rest, rows, batch: merged(params, rest)(rows, batch))
    return nnx.to_pure_dict(params), nnx.to_pure_dict(rest), score, jax.jit(train)


def num_dense(model):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def reference(model, x, *, train_routed=None):
    """The blocks and the head by loops over tokens, in float64; `x` is (T, B, D)."""
    x = np.asarray(x, np.float64)
    num_tokens, batch, dim = x.shape

    def norm(v):
        return (v - v.mean(axis=-1, keepdims=True)) / np.sqrt(v.var(axis=-1, keepdims=True) + 1e-6)

    def linear(layer, t, v):
        return v @ np.asarray(layer.kernel[...][t], np.float64) * layer.multiplier + np.asarray(layer.bias[...][t])

    for ffn in model.ffns:
        heads = [np.split(x[t], num_tokens, axis=-1) for t in range(num_tokens)]
        s = np.stack(
            [norm(np.concatenate([heads[t][h] for t in range(num_tokens)], axis=-1) + x[h]) for h in range(num_tokens)]
        )
        x = np.empty_like(s)
        for t in range(num_tokens):
            hidden = linear(ffn.up, t, s[t])
            hidden = 0.5 * hidden * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
            if ffn.infer_router is not None:
                gates = np.maximum(linear(ffn.infer_router, t, s[t]), 0)
                if train_routed is not None:
                    gates = np.where(train_routed[:, None], np.maximum(linear(ffn.train_router, t, s[t]), 0), gates)
                width, down = hidden.shape[-1] // gates.shape[-1], np.asarray(ffn.down.kernel[...][t]) * ffn.down.multiplier
                v = np.zeros((batch, dim)) + np.asarray(ffn.down.bias[...][t])
                for j in range(gates.shape[-1]):
                    part = slice(j * width, (j + 1) * width)
                    v += gates[:, j : j + 1] * (hidden[:, part] @ down[part])
            else:
                v = linear(ffn.down, t, hidden)
            x[t] = norm(v + s[t])
    return x.mean(axis=0) @ np.asarray(model.head.kernel[...]) * model.head.multiplier + np.asarray(model.head.bias[...])


@pytest.mark.parametrize("config", [DENSE, SPARSE], ids=["dense", "sparse"])
def test_scores_follow_the_equations(make_spec, make_batch, make_rows, config):
    spec = make_spec()
    batch, model = make_batch(spec), RankMixer(config, spec, rngs=nnx.Rngs(0), bias_init=(-1.0, 0.5))
    rng = np.random.default_rng(0)
    for ffn in model.ffns:  # biases start at zero, which would hide them
        for layer in (ffn.up, ffn.down):
            layer.bias[...] = jnp.asarray(rng.normal(size=layer.bias.shape) * 0.3, jnp.float32)
    rows = make_rows(batch)
    tokens = model.tokens(rows, batch)
    np.testing.assert_allclose(model(rows, batch), reference(model, tokens), rtol=1e-3, atol=1e-4)
    routed = (np.arange(24) + np.asarray(batch.request_index)) % 2 == 0
    trained = model.with_penalty(rows, batch, lambda x: bce(x, batch.labels, batch.weights))[0]
    np.testing.assert_allclose(trained, reference(model, tokens, train_routed=routed), rtol=1e-3, atol=1e-4)


def test_inactive_experts_and_the_training_router_are_what_active_leaves_out(make_spec):
    spec = make_spec()
    model, count = RankMixer(SPARSE, spec, rngs=nnx.Rngs(0)), num_params(SPARSE, spec)
    idle = 0
    for ffn in model.ffns:
        experts = num_dense(ffn.up) + ffn.down.kernel.size
        idle += experts * 2 // 3 + num_dense(ffn.train_router)
    assert count.dense - count.active == idle
    flops = flops_per_example(SPARSE, spec)
    assert flops.candidate - flops.candidate_active == 2 * (2 * 4 * 2 * 8 * 12) * 2 // 3


def test_training_runs_two_more_routers_and_nothing_else(make_spec, make_batch, make_rows, num_matmul_flops):
    spec = make_spec()
    batch, rows = make_batch(spec), make_rows(make_batch(spec))
    params, rest, score, train = build(spec, SPARSE)
    scoring, training = (num_matmul_flops(f, params, rest, rows, batch) for f in (score, train))
    assert training - scoring == 2 * 24 * 2 * SPARSE.num_layers * 4 * 8 * 3


@pytest.mark.parametrize(("name", "published", "tolerance"), [("100M", 107e6, 0.01), ("1B", 1.1e9, 0.01)])
def test_published_sizes(make_spec, name, published, tolerance):
    config, spec = PUBLISHED[name], make_spec()
    count = num_params(config, spec)
    model = nnx.eval_shape(lambda: RankMixer(config, spec, rngs=nnx.Rngs(0)))
    assert count.dense == num_dense(model) == pytest.approx(published, rel=tolerance)
    formula = 2 * (config.ffn_dim / config.dim) * config.num_layers * config.num_tokens * config.dim**2
    assert count.dense == pytest.approx(formula, rel=0.005)  # biases, tokeniser and head
    assert flops_per_example(config, spec).candidate == pytest.approx(2 * formula, rel=0.005)


def test_a_block_of_the_usual_size_has_2ktd2_parameters():
    config = RankMixerConfig(embed_dim=4, num_tokens=16, dim=256, ffn_dim=1024)
    block = nnx.eval_shape(lambda: TokenFFN(config, rngs=nnx.Rngs(0)))
    assert num_dense(block) == 2 * 4 * 16 * 256**2 + 16 * (1024 + 256) == 8_409_088


def test_gelu_gain_restores_the_mean_square():
    x = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
    assert float(jnp.mean((GELU_GAIN * jax.nn.gelu(x)) ** 2)) == pytest.approx(1, rel=0.02)


def test_the_inference_router_gets_the_gradient_of_the_task(make_spec, make_batch, make_rows):
    """Not of the penalty alone, under which its gates would all close."""
    spec = make_spec()
    batch, rows = make_batch(spec), make_rows(make_batch(spec))
    params, rest, _, train = build(spec, SPARSE)

    def task(params):
        return bce(train(params, rest, rows, batch)[0], batch.labels, batch.weights)

    def penalty(params):
        return train(params, rest, rows, batch)[1]

    by_task, by_penalty = jax.jit(jax.grad(task))(params), jax.jit(jax.grad(penalty))(params)
    for layer in range(SPARSE.num_layers):
        ffn, pressed = by_task["ffns"][layer], by_penalty["ffns"][layer]
        assert np.abs(ffn["infer_router"]["kernel"]).max() > 1e-6
        assert np.abs(ffn["train_router"]["kernel"]).max() > 1e-6
        assert np.any(pressed["infer_router"]["kernel"])
    pressed = [jax.tree_util.keystr(path) for path, g in jax.tree_util.tree_leaves_with_path(by_penalty) if np.any(g)]
    assert all("infer_router" in path for path in pressed), pressed


def test_experts_that_inference_never_opens_still_learn(make_spec, make_batch, make_rows):
    spec = make_spec()
    batch, rows = make_batch(spec), make_rows(make_batch(spec))
    params, rest, score, train = build(spec, SPARSE)
    closed = jax.tree.map(jnp.copy, params)
    for layer in range(SPARSE.num_layers):
        closed["ffns"][layer]["infer_router"]["bias"] = jnp.full((4, 1, 3), -100.0)
    grads = jax.jit(jax.grad(lambda p: bce(train(p, rest, rows, batch)[0], batch.labels, batch.weights)))(closed)
    served = jax.jit(jax.grad(lambda p: bce(score(p, rest, rows, batch), batch.labels, batch.weights)))(closed)
    for layer in range(SPARSE.num_layers):
        assert np.any(grads["ffns"][layer]["up"]["kernel"]) and not np.any(served["ffns"][layer]["up"]["kernel"])


@pytest.mark.parametrize(("bias", "factor"), [(100.0, L1_GROWTH), (-100.0, 1 / L1_GROWTH)])
def test_the_penalty_grows_while_too_many_gates_are_open(make_spec, make_batch, make_rows, bias, factor):
    spec = make_spec()
    batch, rows = make_batch(spec), make_rows(make_batch(spec))
    params, rest, _, train = build(spec, SPARSE)
    params = jax.tree.map(jnp.copy, params)
    for layer in range(SPARSE.num_layers):
        params["ffns"][layer]["infer_router"]["bias"] = jnp.full((4, 1, 3), bias)
    _, penalty, after = train(params, rest, rows, batch)
    assert float(after["l1"]) == pytest.approx(L1_START), "within a step it stays"
    model = RankMixer(SPARSE, spec, rngs=nnx.Rngs(0))
    nnx.update(model, nnx.State(after))
    model.end_step()
    assert float(model.l1[...]) == pytest.approx(L1_START * factor) and not np.any(model.num_gates[...])
    # Gates of 100, more or less; none at -100.
    assert float(penalty) == (pytest.approx(100 * L1_START, rel=0.05) if bias > 0 else 0)


def test_padding_candidates_do_not_count_in_the_penalty(make_spec, make_batch, make_rows):
    spec = make_spec()
    batch, rows = make_batch(spec), make_rows(make_batch(spec))
    params, rest, _, train = build(spec, SPARSE)
    padded = batch._replace(weights=batch.weights.at[-4:].set(0.0))
    junk = padded._replace(candidate_numeric=batch.candidate_numeric.at[-4:].set(1e3))
    assert train(params, rest, rows, padded)[1] == train(params, rest, rows, junk)[1]
    assert train(params, rest, rows, padded)[1] != train(params, rest, rows, batch)[1]
    empty = batch._replace(weights=jnp.zeros_like(batch.weights))
    assert train(params, rest, rows, empty)[1] == 0


def test_the_dense_model_has_no_penalty_and_no_state(make_spec, make_batch, make_rows):
    spec = make_spec()
    batch, rows = make_batch(spec), make_rows(make_batch(spec))
    params, rest, score, train = build(spec)
    logits, penalty, after = train(params, rest, rows, batch)
    assert penalty == 0 and rest == after == {}
    np.testing.assert_array_equal(logits, score(params, rest, rows, batch))


@pytest.mark.parametrize("config", [DENSE, SPARSE], ids=["dense", "sparse"])
def test_it_learns_and_what_serves_learns_with_it(make_spec, make_batch, make_rows, config, replaced):
    spec = make_spec()
    rows = make_rows(make_batch(spec))
    params, rest, score, train = build(spec, replaced(config, dim=16, ffn_dim=24))
    optimizer = optax.adam(1e-2)

    def labelled(seed):
        """A click is likelier the larger the first number of two of the item's embeddings."""
        batch = make_batch(spec, num_candidates=256, num_requests=40, seed=seed)
        odds = 4 * rows[batch.candidate_ids[:, 0], 0] + 4 * rows[batch.candidate_ids[:, 1], 0]
        clicks = np.random.default_rng(seed).random(256) < expit(odds)
        return batch._replace(labels=jnp.asarray(np.stack([clicks, clicks], axis=1), jnp.float32))

    @jax.jit
    def step(params, rest, state, batch):
        def loss(params):
            logits, penalty, after = train(params, rest, rows, batch)
            return bce(logits, batch.labels, batch.weights) + penalty, after

        (_, after), grads = jax.value_and_grad(loss, has_aux=True)(params)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), after, state

    test, state = labelled(999), optimizer.init(params)
    before = bce(score(params, rest, rows, test), test.labels, test.weights)
    assert before == pytest.approx(np.log(2), abs=0.05)
    for seed in range(60):
        params, rest, state = step(params, rest, state, labelled(seed))
    assert bce(score(params, rest, rows, test), test.labels, test.weights) < 0.9 * before
