"""What HHSFT's block diagram promises: isolation by gradient, its modules, and that it learns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from unisc.models.hhsft import DAPGA, HFA, HHSFT, ISOLATIONS, HHSFTConfig, domain_one_hot
from unisc.objectives.ranking import bce

CONFIG = HHSFTConfig(embed_dim=4, hfa_dim=4, gfa_dim=8, num_gfa_sets=3)


@functools.cache
def build(spec, isolation="both", seed=0):
    """Return (dense parameters, jitted score) of a small model."""
    config = HHSFTConfig(embed_dim=4, hfa_dim=4, gfa_dim=8, num_gfa_sets=3, isolation=isolation)
    graphdef, params = nnx.split(HHSFT(config, spec, rngs=nnx.Rngs(seed)), nnx.Param)
    score = jax.jit(lambda dense, rows, batch: nnx.merge(graphdef, nnx.State(dense))(rows, batch))
    return nnx.to_pure_dict(params), score


def of_domain(batch, domain):
    """Keep the weight of one domain's samples only."""
    return batch._replace(weights=batch.weights * (batch.domain == domain).astype(jnp.float32)[:, None])


@pytest.mark.parametrize("isolation", ["dref", "dapga", "both"])
def test_private_parameters_of_other_domains_get_exactly_zero_gradient(make_spec, make_batch, make_rows, isolation):
    spec = make_spec()
    batch = of_domain(make_batch(spec), 1)
    dense, score = build(spec, isolation)
    grads = jax.jit(jax.grad(lambda d: bce(score(d, make_rows(batch), batch), batch.labels, batch.weights)))(dense)
    private = {"heads": grads["heads"]}
    if isolation in ("dref", "both"):
        private["dref"] = grads["fusion"]["experts"]
    if isolation in ("dapga", "both"):
        private["dapga"] = grads["dapga"]["experts"]
    for name, tree in private.items():
        for leaf in jax.tree.leaves(tree):
            assert leaf.shape[0] == len(spec.domains)
            assert not np.any(leaf[0]) and not np.any(leaf[2]), name
            assert np.any(leaf[1]), name


def test_samples_of_other_domains_do_not_change_a_score(make_spec, make_batch, make_rows):
    spec = make_spec()
    batch = make_batch(spec)
    dense, score = build(spec)
    own = np.asarray(batch.domain) == 0
    order = np.arange(own.size)
    order[~own] = np.random.default_rng(1).permutation(order[~own])
    moved = batch._replace(
        candidate_ids=batch.candidate_ids[order],
        candidate_numeric=batch.candidate_numeric[order] * jnp.where(own, 1.0, 3.0).astype(jnp.float32)[:, None],
        request_index=batch.request_index[order],
        domain=batch.domain[order],
    )
    before, after = (score(dense, make_rows(batch), b) for b in (batch, moved))
    np.testing.assert_array_equal(before[own], after[own])
    assert np.any(before[~own] != after[~own])


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_which_variants_route_by_domain(make_spec, make_batch, make_rows, isolation):
    spec = make_spec()
    batch = make_batch(spec)
    dense, score = build(spec, isolation)
    assert ("dapga" in dense) == (isolation in ("dapga", "both"))
    assert ("experts" in dense["fusion"]) == (isolation in ("dref", "both"))
    assert dense["heads"]["up"]["kernel"].shape[0] == (1 if isolation == "none" else len(spec.domains))
    other = batch._replace(domain=(batch.domain + 1) % 3)
    same = np.array_equal(score(dense, make_rows(batch), batch), score(dense, make_rows(batch), other))
    assert same == (isolation == "none")


@pytest.mark.parametrize("isolation", ["dref", "dapga"])
def test_one_domain_and_one_task_work(make_spec, make_batch, make_rows, isolation):
    spec = make_spec(domains=("search",), tasks=("click",))
    batch = make_batch(spec)
    dense, score = build(spec, isolation)
    scores = score(dense, make_rows(batch), batch)
    assert scores.shape == (24, 1) and scores.dtype == jnp.float32 and np.all(np.isfinite(scores))


def test_dapga_with_one_domain_is_a_gated_identity_on_its_view(make_spec):
    spec = make_spec(domains=("search",))
    module = DAPGA(CONFIG, spec, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    e, who = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((5, 8), (3, module.gate.up.request.shape[0])))
    index = jnp.asarray([0, 0, 1, 2, 2], jnp.int32)
    one_hot = jnp.ones((1, 5, 1), jnp.float32)
    normed = e / jnp.sqrt(jnp.mean(e * e, axis=-1, keepdims=True) + 1e-6)
    view = module.experts(normed)[0]
    gamma = jax.nn.sigmoid(module.gate(who, jnp.zeros((5, 0), jnp.float32), index))
    np.testing.assert_allclose(module(e, one_hot, who, index), view * gamma, rtol=1e-5)


def test_dapga_reads_the_other_views_but_does_not_train_them(make_spec, make_batch):
    spec = make_spec()
    graphdef, params = nnx.split(DAPGA(CONFIG, spec, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    e = jnp.asarray(rng.normal(size=(24, 8)), jnp.float32)
    batch = make_batch(spec)
    who = jnp.zeros((6, params["gate"]["up"]["request"].shape[0]), jnp.float32)
    one_hot = domain_one_hot(batch._replace(domain=jnp.zeros_like(batch.domain)), 3)

    def total(params):
        return jnp.sum(nnx.merge(graphdef, params)(e, one_hot, who, batch.request_index) ** 2)

    kernel = jax.jit(jax.grad(total))(params)["experts"]["down"]["kernel"][...]
    assert np.any(kernel[0]) and not np.any(kernel[1:])
    changed = jax.tree.map(jnp.copy, params)
    changed["experts"]["down"]["kernel"][...] = changed["experts"]["down"]["kernel"][...].at[2].multiply(2.0)
    assert abs(total(changed) - total(params)) > 1e-4


def test_hfa_with_tied_types_is_a_plain_transformer_block():
    config = HHSFTConfig(embed_dim=4, hfa_dim=8, gfa_dim=8, num_heads=2)
    block = HFA(config, rngs=nnx.Rngs(0))
    for param in (block.qkv.kernel, block.out.kernel, block.ffn.up.kernel, block.ffn.up.bias, block.ffn.down.kernel):
        param[...] = jnp.broadcast_to(param[...][:1], param.shape)
    x = np.random.default_rng(0).normal(size=(7, 5, 8)).astype(np.float32)  # (B, T, D)

    def norm(x):
        return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + 1e-6)

    def plain_block(x):
        w = {n: np.asarray(m.kernel[...][0]) * m.multiplier for n, m in (("qkv", block.qkv), ("out", block.out))}
        q, k, v = np.split(norm(x) @ w["qkv"], 3, axis=-1)
        heads = []
        for n in range(2):
            part = slice(4 * n, 4 * n + 4)
            scores = q[:, :, part] @ k[:, :, part].transpose(0, 2, 1) * (np.sqrt(8.0) / 4)
            weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
            heads.append(weights @ v[:, :, part])
        x = x + np.concatenate(heads, axis=-1) @ w["out"]
        up = norm(x) @ np.asarray(block.ffn.up.kernel[...][0]) * block.ffn.up.multiplier + np.asarray(block.ffn.up.bias[...][0])
        return x + np.maximum(up, 0.1 * up) @ np.asarray(block.ffn.down.kernel[...][0]) * block.ffn.down.multiplier

    np.testing.assert_allclose(block(jnp.asarray(x.transpose(1, 0, 2))).swapaxes(0, 1), plain_block(x), rtol=1e-4, atol=1e-5)


def test_it_learns_a_small_set_by_heart(make_spec, make_batch, make_rows):
    spec = make_spec()
    batch = make_batch(spec)
    dense, score = build(spec)
    params = (dense, make_rows(batch))
    optimizer = optax.adam(3e-3)

    @jax.jit
    def step(params, state):
        loss, grads = jax.value_and_grad(lambda p: bce(score(*p, batch), batch.labels, batch.weights))(params)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, loss

    state, losses = optimizer.init(params), []
    for _ in range(240):
        params, state, loss = step(params, state)
        losses.append(float(loss))
    assert losses[0] == pytest.approx(np.log(2), abs=0.1)
    assert losses[-1] < 0.1
