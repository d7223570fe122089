"""The blocks: shapes, invariances and exact references."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from unisc.nn.attention import attention, sink_attention
from unisc.nn.embedding import lookup, masked_mean, to_candidates
from unisc.nn.interaction import num_pairs, pairwise_dots
from unisc.nn.linear import BASE_FAN_IN, Linear, TypedLinear
from unisc.nn.mlp import MLP, Experts, JointLinear, JointMLP
from unisc.nn.norm import rms_norm


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("dim", [8, 128, 1024])
def test_a_linear_map_keeps_unit_scale_and_one_rate_moves_every_width_alike(dim):
    layer, x = Linear(dim, 64, rngs=nnx.Rngs(0)), normal(200, dim)
    assert np.std(layer(x)) == pytest.approx(1.0, rel=0.1)
    # A normalised optimiser moves each entry by the rate, along its input's sign.
    aligned = jnp.ones((1, dim), jnp.float32)
    before = layer(aligned)
    layer.kernel[...] = layer.kernel[...] + 0.01
    np.testing.assert_allclose(layer(aligned) - before, 0.01 * BASE_FAN_IN, rtol=1e-2)


def test_initial_values_follow_the_seed_alone():
    first, again, other = (Linear(4, 4, rngs=nnx.Rngs(seed)).kernel[...] for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


def test_a_typed_map_applies_each_types_own_kernel():
    layer, x = TypedLinear(3, 5, 7, rngs=nnx.Rngs(0)), normal(3, 11, 5)
    for t in range(3):
        np.testing.assert_allclose(layer(x)[t], x[t] @ layer.kernel[...][t] * layer.multiplier, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer.shared_input(x[0]), layer(jnp.broadcast_to(x[:1], x.shape)), rtol=1e-5, atol=1e-6)


def test_own_picks_the_own_experts_output():
    experts, x = Experts(3, 6, 8, 4, rngs=nnx.Rngs(0)), normal(5, 6)
    domain = np.array([2, 0, 1, 1, 2])
    one_hot = jnp.asarray(np.eye(3, dtype=np.float32)[domain].T[..., None])
    own = experts.own(x, one_hot)
    np.testing.assert_allclose(own, np.asarray(experts(x))[domain, np.arange(5)], rtol=1e-6)


def test_a_joint_map_equals_the_map_of_joined_features():
    layer, request, candidate = JointLinear(3, 4, 6, rngs=nnx.Rngs(0)), normal(2, 3), normal(5, 4)
    index = jnp.asarray([0, 1, 1, 0, 1], jnp.int32)
    joined = jnp.concatenate([request[index], candidate], axis=-1)
    kernel = jnp.concatenate([layer.request[...], layer.candidate[...]]) * layer.multiplier
    np.testing.assert_allclose(layer(request, candidate, index), joined @ kernel, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("dim_request", "dim_candidate"), [(3, 4), (3, 0), (0, 4), (0, 0)])
def test_a_joint_mlp_takes_what_there_is(dim_request, dim_candidate):
    mlp = JointMLP(dim_request, dim_candidate, 5, 6, rngs=nnx.Rngs(0))
    index = jnp.asarray([0, 1, 1], jnp.int32)
    out = mlp(normal(2, dim_request), normal(3, dim_candidate), index)
    assert out.shape == (3, 6) and np.any(out)
    if not dim_candidate:
        np.testing.assert_array_equal(out[1], out[2])


def test_attention_equals_the_textbook_formula():
    q, k, v = (normal(2, t, 3, 8, seed=s) for t, s in ((4, 0), (5, 1), (5, 2)))
    scores = np.einsum("btnh,bsnh->bnts", q, k) / np.sqrt(8)  # at head width 8 the scale is the usual one
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    np.testing.assert_allclose(attention(q, k, v), np.einsum("bnts,bsnh->btnh", weights, v), rtol=1e-4, atol=1e-5)


def test_sink_attention_is_softmax_with_one_empty_entry():
    scores, values = normal(3, 4) * 3, normal(3, 4, 5)
    mask = jnp.asarray([[True, True, False, True], [True] * 4, [False] * 4])
    with_sink = np.concatenate([np.where(mask, scores, -np.inf), np.zeros((3, 1))], axis=-1)
    weights = np.asarray(jax.nn.softmax(with_sink.astype(np.float32), axis=-1))[:, :-1]
    pooled = sink_attention(scores, mask, values)
    np.testing.assert_allclose(pooled, np.einsum("bs,bsd->bd", weights, values), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(pooled[2], np.zeros(5))


@pytest.mark.parametrize("score", [-1e30, -200.0, 200.0, 1e30])
def test_sink_attention_survives_extreme_scores(score):
    scores, values = jnp.full((1, 3), score, jnp.float32), normal(1, 3, 2)
    mask = jnp.asarray([[True, True, False]])
    value, grad = jax.value_and_grad(lambda s: jnp.sum(sink_attention(s, mask, values)))(scores)
    assert np.isfinite(value) and np.all(np.isfinite(grad)) and grad[0, 2] == 0


def test_an_empty_history_list_pools_to_zero():
    empty = jnp.zeros((2, 0), bool)
    np.testing.assert_array_equal(masked_mean(jnp.zeros((2, 0, 3), jnp.float32), empty), np.zeros((2, 3)))
    pooled = sink_attention(jnp.zeros((2, 0), jnp.float32), empty, jnp.zeros((2, 0, 3), jnp.float32))
    np.testing.assert_array_equal(pooled, np.zeros((2, 3)))


def test_masked_mean_reads_real_entries_only():
    x, mask = normal(2, 3, 4), jnp.asarray([[True, False, True], [False] * 3])
    np.testing.assert_allclose(masked_mean(x, mask)[0], (x[0, 0] + x[0, 2]) / 2, rtol=1e-6)
    np.testing.assert_array_equal(masked_mean(x, mask)[1], np.zeros(4))


def test_lookups_take_rows_by_position():
    rows, ids, index = normal(9, 2), jnp.asarray([[3, 0], [8, 8]], jnp.int32), jnp.asarray([1, 1, 0], jnp.int32)
    np.testing.assert_array_equal(lookup(rows, ids), np.asarray(rows)[np.asarray(ids)])
    np.testing.assert_array_equal(to_candidates(rows[:2], index), np.asarray(rows)[[1, 1, 0]])


def test_pairwise_dots_list_every_pair_once():
    x = normal(3, 5, 2)
    expected = np.stack([np.sum(x[:, i] * x[:, j], axis=-1) for i in range(5) for j in range(i + 1, 5)], axis=-1)
    assert expected.shape[1] == num_pairs(5)
    np.testing.assert_allclose(pairwise_dots(x), expected, rtol=1e-5)


def test_rms_norm_ignores_scale_and_keeps_zero():
    x = normal(4, 16)
    np.testing.assert_allclose(rms_norm(x * 100), rms_norm(x), rtol=1e-3)
    np.testing.assert_allclose(np.mean(np.square(rms_norm(x)), axis=-1), 1, rtol=1e-3)
    np.testing.assert_array_equal(rms_norm(jnp.zeros((2, 3))), np.zeros((2, 3)))


def test_shapes_in_signatures_are_checked_under_test():
    with pytest.raises(Exception, match=r"(?i)type"):
        masked_mean(normal(2, 3, 4), jnp.ones((2, 5), bool))


def test_promotion_is_strict_under_test():
    with pytest.raises(Exception, match="promotion"):
        MLP(4, 4, 4, rngs=nnx.Rngs(0))(jnp.ones((2, 4), jnp.float32)) + jnp.ones((2, 4), jnp.int32)
