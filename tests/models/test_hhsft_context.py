"""HHSFT with a context that is computed once a request: the same parameters, a mask, and nothing else."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from unisc.data.features import GROUPS
from unisc.models.hhsft import HHSFT, HHSFTConfig
from unisc.models.inputs import group_inputs
from unisc.models.tokens import token_groups
from unisc.objectives.ranking import bce

CONFIG = HHSFTConfig(embed_dim=4, hfa_dim=4, gfa_dim=8, num_gfa_sets=3, num_hfa_layers=2, context="shared")
LACKING = ({}, {"without": ("query",)}, {"no_history": True}, {"no_history": True, "without": ("sequence", "user")})


@functools.cache
def build(spec):
    """Return (dense parameters, jitted score) of a small model with a shared context."""
    graphdef, params = nnx.split(HHSFT(CONFIG, spec, rngs=nnx.Rngs(0)), nnx.Param)
    score = jax.jit(lambda dense, rows, batch: nnx.merge(graphdef, nnx.State(dense))(rows, batch))
    return nnx.to_pure_dict(params), score


def test_which_tokens_are_the_contexts(make_spec):
    names = [[GROUPS[i] for i in part] for part in token_groups(make_spec())]
    assert names == [["user", "query", "domain"], ["item", "sequence"]]
    names = [[GROUPS[i] for i in part] for part in token_groups(make_spec(no_history=True, without=("sequence",)))]
    assert names == [["user", "query", "sequence", "domain"], ["item"]]


@pytest.mark.parametrize("parts", LACKING)
def test_tokens_and_the_map_of_all_tokens_are_the_same_in_two_parts(make_spec, make_batch, make_rows, parts):
    spec = make_spec(**parts)
    batch, groups = make_batch(spec, list_len=14), token_groups(spec)
    rows = make_rows(batch)
    model = HHSFT(CONFIG, spec, rngs=nnx.Rngs(0))

    @jax.jit
    def both(rows):
        inputs = {group: group_inputs(spec, group, rows, batch) for group in GROUPS}
        whole = model.tokenizers(rows, batch, inputs)
        context, own = model.tokenizers.split(rows, batch, inputs, groups)
        return whole, context, own, model.gfa(whole), model.gfa.shared(context, own, groups, batch.request_index)

    whole, context, own, mixed, mixed_in_parts = both(rows)
    index = np.asarray(batch.request_index)
    np.testing.assert_allclose(np.asarray(context)[:, index], whole[np.array(groups.context)], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(own, whole[np.array(groups.own)], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mixed_in_parts, mixed, rtol=1e-4, atol=1e-5)


def test_hfa_hides_the_candidate_from_the_context_and_nothing_else(make_spec):
    """Against a block with a mask, one candidate and one head at a time."""
    spec, rng = make_spec(), np.random.default_rng(0)
    groups, index = token_groups(spec), np.array([0, 0, 1, 2, 2])
    block = HHSFT(CONFIG, spec, rngs=nnx.Rngs(0)).hfa[0]
    context, own = (rng.normal(size=s).astype(np.float32) for s in ((3, 3, 4), (2, 5, 4)))
    got = block.shared(jnp.asarray(context), jnp.asarray(own), groups, jnp.asarray(index, jnp.int32))
    w = {n: np.asarray(m.kernel[...]) * m.multiplier for n, m in (("qkv", block.qkv), ("out", block.out))}
    up, up_bias = np.asarray(block.ffn.up.kernel[...]) * block.ffn.up.multiplier, np.asarray(block.ffn.up.bias[...])
    down = np.asarray(block.ffn.down.kernel[...]) * block.ffn.down.multiplier

    def norm(x):
        return x / np.sqrt(np.mean(x * x) + 1e-6)

    for b in range(5):
        x = np.zeros((5, 4), np.float32)
        x[list(groups.context)], x[list(groups.own)] = context[:, index[b]], own[:, b]
        q, k, v = (np.stack([norm(x[t]) @ w["qkv"][t][:, 4 * j : 4 * j + 4] for t in range(5)]) for j in range(3))
        for t in range(5):
            keys = np.array(groups.context) if t in groups.context else np.arange(5)
            heads = []
            for n in (slice(0, 2), slice(2, 4)):
                scores = np.exp(k[keys, n] @ q[t, n] * np.sqrt(8.0) / 2)
                heads.append(scores / scores.sum() @ v[keys, n])
            y = x[t] + np.concatenate(heads) @ w["out"][t]
            hidden = norm(y) @ up[t] + up_bias[t, 0]
            y = y + np.maximum(hidden, 0.1 * hidden) @ down[t]
            part = got[0][groups.context.index(t), index[b]] if t in groups.context else got[1][groups.own.index(t), b]
            np.testing.assert_allclose(part, y, rtol=1e-4, atol=1e-5)


def test_it_learns_a_small_set_by_heart(make_spec, make_batch, make_rows, replaced):
    spec = make_spec()
    batch = make_batch(spec, list_len=14)
    graphdef, params = nnx.split(HHSFT(replaced(CONFIG, num_hfa_layers=1), spec, rngs=nnx.Rngs(0)))
    params, optimizer = (params, make_rows(batch)), optax.adam(3e-3)

    @jax.jit
    def step(params, state):
        def loss(params):
            return bce(nnx.merge(graphdef, params[0])(params[1], batch), batch.labels, batch.weights)

        loss, grads = jax.value_and_grad(loss)(params)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, loss

    state, losses = optimizer.init(params), []
    for _ in range(120):
        params, state, loss = step(params, state)
        losses.append(float(loss))
    assert losses[-1] < 0.1 < losses[0]
