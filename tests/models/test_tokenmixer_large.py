"""TokenMixer-Large: its equations by loops, sizes, routing, and shallow losses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from scipy.special import expit

from unisc.models.tokenmixer_large import (
    Block,
    TokenMixerLarge,
    TokenMixerLargeConfig,
    TokenSwiGLU,
    flops_per_example,
    num_params,
)
from unisc.objectives.ranking import bce

DENSE = TokenMixerLargeConfig(embed_dim=4, num_tokens=4, dim=8, ffn_dim=12, num_layers=5)
SPARSE = TokenMixerLargeConfig(embed_dim=4, num_tokens=4, dim=8, ffn_dim=12, num_layers=5, num_experts=4, active_experts=2)
BARE = {"domains": ("search",), "tasks": ("click",), "without": ("query",), "no_history": True}
BOTH = pytest.mark.parametrize("config", [DENSE, SPARSE], ids=["dense", "sparse"])


@functools.cache
def build(spec, config=DENSE, seed=0):
    """Return the parameters and jitted scoring and training passes of a model."""
    graphdef, params = nnx.split(TokenMixerLarge(config, spec, rngs=nnx.Rngs(seed)), nnx.Param)

    def train(params, rows, batch):
        model = nnx.merge(graphdef, nnx.State(params))
        return model.with_penalty(rows, batch, lambda x: bce(x, batch.labels, batch.weights))

    score = jax.jit(lambda params, rows, batch: nnx.merge(graphdef, nnx.State(params))(rows, batch))
    return nnx.to_pure_dict(params), score, jax.jit(train)


def num_dense(model):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def linear(layer, t, v):
    return v @ np.asarray(layer.kernel[...][t], np.float64) * layer.multiplier + np.asarray(layer.bias[...][t])


def norm(v):
    return v / np.sqrt((v * v).mean(axis=-1, keepdims=True) + 1e-6)


def swiglu(layer, t, v):
    gate, up = np.split(linear(layer.gate_up, t, v), 2, axis=-1)
    hidden = gate * expit(gate) * up
    if layer.router is None:
        return linear(layer.down, t, hidden)
    logits = linear(layer.router, t, v)
    probs = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    others, width = probs.shape[-1], hidden.shape[-1] // (probs.shape[-1] + 1)
    out = np.zeros_like(v) + np.asarray(layer.down.bias[...][t])
    for row in range(len(v)):
        chosen = sorted(range(others), key=lambda j: -probs[row, j])[: layer.num_routed]
        for weight, j in [(1.0, 0), *((probs[row, j] * others / layer.num_routed, j + 1) for j in chosen)]:
            part = slice(j * width, (j + 1) * width)
            out[row] += weight * (hidden[row, part] @ np.asarray(layer.down.kernel[...][t, part]) * layer.down.multiplier)
    return out


def reference(model, x):
    """The blocks and the heads by loops over tokens, in float64: logits, and those of the shallow heads."""
    x = np.asarray(x, np.float64)
    count, config, shallow, kept = len(x), model.config, [], np.asarray(x, np.float64)

    def turned(x):
        return np.stack(
            [np.concatenate([np.split(x[t], count, axis=-1)[h] for t in range(count)], axis=-1) for h in range(count)]
        )

    def logits(head, x):
        pooled = np.mean([norm(token) for token in x], axis=0)
        return pooled @ np.asarray(head.kernel[...]) * head.multiplier + np.asarray(head.bias[...])

    for i, block in enumerate(model.blocks):
        h = turned(x)
        h = np.stack([h[t] + swiglu(block.mixed, t, norm(h[t])) for t in range(count)])
        back = turned(h)
        x = np.stack([x[t] + swiglu(block.reverted, t, norm(back[t])) for t in range(count)])
        if (i + 1) % config.residual_every == 0 and i + 1 < config.num_layers:
            x = x + kept
            kept = x
            shallow.append(logits(model.shallow_heads[len(shallow)], x))
    return logits(model.head, x), shallow


@BOTH
@pytest.mark.parametrize(("every", "layers", "bridges"), [(2, 5, 2), (3, 5, 1), (2, 4, 1)])
def test_scores_and_shallow_scores_follow_the_equations(
    make_spec, make_batch, make_rows, replaced, config, every, layers, bridges
):
    spec = make_spec()
    config = replaced(config, residual_every=every, num_layers=layers, down_std=0.3, aux_weight=0.7)
    batch, model = make_batch(spec), TokenMixerLarge(config, spec, rngs=nnx.Rngs(0), bias_init=(-1.0, 0.5))
    rng = np.random.default_rng(0)
    for block in model.blocks:  # biases start at zero, which would hide them
        for layer in (block.mixed.gate_up, block.mixed.down, block.reverted.gate_up, block.reverted.down):
            layer.bias[...] = jnp.asarray(rng.normal(size=layer.bias.shape) * 0.3, jnp.float32)
    rows = make_rows(batch)
    logits, shallow = reference(model, model.tokens(rows, batch))
    assert len(shallow) == len(model.shallow_heads) == bridges
    np.testing.assert_allclose(model(rows, batch), logits, rtol=1e-3, atol=1e-4)
    trained, penalty = model.with_penalty(rows, batch, lambda x: bce(x, batch.labels, batch.weights))
    np.testing.assert_array_equal(trained, model(rows, batch))
    y = np.asarray(batch.labels)
    losses = [np.mean(np.logaddexp(0, z) - z * y) for z in shallow]
    assert float(penalty) == pytest.approx(0.7 * np.mean(losses), rel=1e-3)


def test_down_projections_start_small_and_from_zero_a_block_is_the_identity(replaced):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5, 128)), jnp.float32)
    wide = replaced(DENSE, dim=128, ffn_dim=256)
    block = Block(wide, rngs=nnx.Rngs(0))
    for layer in (block.mixed.down, block.reverted.down):
        assert float(jnp.std(layer.kernel[...]) * layer.multiplier) == pytest.approx(0.01, rel=0.02)
    assert 0 < float(jnp.max(jnp.abs(block(x) - x))) < 1
    np.testing.assert_array_equal(Block(replaced(wide, down_std=0.0), rngs=nnx.Rngs(0))(x), x)


def test_active_leaves_out_experts_not_chosen_and_shallow_heads(make_spec):
    spec = make_spec()
    for config, share in ((DENSE, 0), (SPARSE, 2)):
        model, count = TokenMixerLarge(config, spec, rngs=nnx.Rngs(0)), num_params(config, spec)
        idle = num_dense(model.shallow_heads)
        for block in model.blocks:
            for ffn in (block.mixed, block.reverted):
                idle += (num_dense(ffn.gate_up) + ffn.down.kernel.size) * share // 4
        assert count.dense - count.active == idle


def test_a_half_active_model_of_the_published_size_needs_half_the_work(make_spec):
    """4.6 B parameters, 2.3 B of them active, 15.1 against a dense 4 B's 29.8 TFLOPs; T, D and L are ours."""
    spec = make_spec()
    sparse = TokenMixerLargeConfig(
        embed_dim=16, num_tokens=16, dim=1536, ffn_dim=2592, num_layers=12, num_experts=4, active_experts=2
    )
    count, flops = num_params(sparse, spec), flops_per_example(sparse, spec)
    assert count.dense == pytest.approx(4.6e9, rel=0.02) and count.active == pytest.approx(2.3e9, rel=0.02)
    assert flops.candidate_active / flops.candidate == pytest.approx(0.5, abs=0.01)


def test_a_block_has_six_t_d_f_parameters():
    config = TokenMixerLargeConfig(embed_dim=4, num_tokens=16, dim=256, ffn_dim=1024)
    block = nnx.eval_shape(lambda: Block(config, rngs=nnx.Rngs(0)))
    assert num_dense(block) == 6 * 16 * 256 * 1024 + 2 * 16 * (2 * 1024 + 256)


@pytest.mark.parametrize(("experts", "active"), [(4, 2), (4, 3), (4, 4), (2, 2)])
def test_as_many_experts_as_asked_serve_a_token(replaced, experts, active):
    layer = TokenSwiGLU(replaced(SPARSE, num_experts=experts, active_experts=active), rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 50, 8)), jnp.float32)
    weights = np.asarray(layer.weights(x))
    assert np.all((weights > 0).sum(axis=-1) == active)
    np.testing.assert_array_equal(weights[..., 0], 1)
    # With equal gates, ties included, the chosen ones' weights sum to 1 at any sparsity.
    even = np.asarray(layer.weights(jnp.zeros_like(x)))
    assert np.all((even > 0).sum(axis=-1) == active)
    np.testing.assert_allclose(even[..., 1:].sum(axis=-1), 1, rtol=1e-5)


@pytest.mark.parametrize("active", [2, 3])
def test_routers_get_the_gradient_of_the_task_even_with_one_chosen(make_spec, make_batch, make_rows, replaced, active):
    spec = make_spec()
    batch, rows = make_batch(spec), make_rows(make_batch(spec))
    params, score, _ = build(spec, replaced(SPARSE, active_experts=active, down_std=0.1))
    grads = jax.jit(jax.grad(lambda p: bce(score(p, rows, batch), batch.labels, batch.weights)))(params)
    for block in grads["blocks"].values():
        for ffn in ("mixed", "reverted"):
            assert np.abs(block[ffn]["router"]["kernel"]).max() > 1e-8


def test_the_shallow_loss_trains_the_shallow_head_and_what_lies_below_it(make_spec, make_batch, make_rows):
    spec = make_spec()
    batch, rows = make_batch(spec), make_rows(make_batch(spec))
    params, score, train = build(spec)
    grads = jax.jit(jax.grad(lambda p: train(p, rows, batch)[1]))(params)
    touched = {path[:2] for path, g in _flat(grads) if np.any(g)}
    assert {("blocks", 0), ("blocks", 3), ("shallow_heads", 0), ("shallow_heads", 1)} <= touched
    assert ("blocks", 4) not in touched and ("head", "kernel") not in touched
    served = jax.jit(jax.grad(lambda p: jnp.sum(score(p, rows, batch))))(params)
    assert not any(np.any(g) for path, g in _flat(served) if path[0] == "shallow_heads")


def _flat(tree):
    return [(tuple(k.key for k in path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def test_without_a_bridge_there_is_no_shallow_loss(make_spec, make_batch, make_rows, replaced):
    spec = make_spec()
    batch, rows = make_batch(spec), make_rows(make_batch(spec))
    config = replaced(DENSE, num_layers=2)
    params, _, train = build(spec, config)
    assert config.num_shallow == 0 and "shallow_heads" not in params and train(params, rows, batch)[1] == 0


@BOTH
def test_it_learns(make_spec, make_batch, make_rows, config, replaced):
    spec = make_spec()
    rows = make_rows(make_batch(spec))
    params, score, train = build(spec, replaced(config, dim=16, ffn_dim=16, num_layers=3))
    optimizer = optax.adam(1e-2)

    def labelled(seed):
        """A click is likelier the larger the first number of two of the item's embeddings."""
        batch = make_batch(spec, num_candidates=256, num_requests=40, seed=seed)
        odds = 4 * rows[batch.candidate_ids[:, 0], 0] + 4 * rows[batch.candidate_ids[:, 1], 0]
        clicks = np.random.default_rng(seed).random(256) < expit(odds)
        return batch._replace(labels=jnp.asarray(np.stack([clicks, clicks], axis=1), jnp.float32))

    @jax.jit
    def step(params, state, batch):
        def loss(params):
            logits, penalty = train(params, rows, batch)
            return bce(logits, batch.labels, batch.weights) + penalty

        grads = jax.grad(loss)(params)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state

    test, state = labelled(999), optimizer.init(params)
    before = bce(score(params, rows, test), test.labels, test.weights)
    assert before == pytest.approx(np.log(2), abs=0.05)
    for seed in range(60):
        params, state = step(params, state, labelled(seed))
    assert bce(score(params, rows, test), test.labels, test.weights) < 0.9 * before


def test_all_heads_start_near_the_given_bias(make_spec, make_batch, make_rows):
    spec = make_spec()
    batch = make_batch(spec, num_candidates=100)
    model = TokenMixerLarge(DENSE, spec, rngs=nnx.Rngs(0), bias_init=(-2.0, -4.0))
    scores = jax.jit(lambda rows: model(rows, batch))(make_rows(batch))
    np.testing.assert_allclose(np.mean(scores, axis=0), [-2.0, -4.0], atol=0.2)
    for head in model.shallow_heads:
        np.testing.assert_array_equal(head.bias[...], jnp.array([-2.0, -4.0]))
    with pytest.raises(ValueError, match="cannot start at 1 values"):
        TokenMixerLarge(DENSE, spec, rngs=nnx.Rngs(0), bias_init=(-2.0,))
