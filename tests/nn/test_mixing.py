"""The token mixers' parts against loops."""

import jax.numpy as jnp
import numpy as np

from unisc.nn.mixing import gate_experts, mix_tokens
from unisc.nn.norm import layer_norm


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_mixing_collects_everyones_slice_and_undoes_itself():
    x = normal(3, 5, 12)
    mixed = mix_tokens(x)
    for h in range(3):
        expected = np.concatenate([x[t, :, 4 * h : 4 * h + 4] for t in range(3)], axis=-1)
        np.testing.assert_array_equal(mixed[h], expected)
    np.testing.assert_array_equal(mix_tokens(mixed), x)


def test_mixing_moves_numbers_and_makes_none():
    x = normal(4, 3, 8)
    for b in range(3):
        np.testing.assert_array_equal(np.sort(mix_tokens(x)[:, b].ravel()), np.sort(x[:, b].ravel()))


def test_gated_blocks_are_the_sum_of_gated_experts():
    hidden, gates, down = normal(2, 5, 6), normal(2, 5, 3, seed=1), normal(2, 6, 4, seed=2)
    out = jnp.einsum("tbf,tfd->tbd", gate_experts(hidden, gates), down)
    expected = np.zeros((2, 5, 4))
    for t in range(2):
        for expert in range(3):
            part = slice(2 * expert, 2 * expert + 2)
            expected[t] += np.asarray(gates)[t, :, expert, None] * (np.asarray(hidden)[t, :, part] @ np.asarray(down)[t, part])
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


def test_layer_norm_shifts_and_scales():
    x = normal(4, 16) * 7 + 3
    np.testing.assert_allclose(np.mean(layer_norm(x), axis=-1), 0, atol=1e-5)
    np.testing.assert_allclose(np.std(layer_norm(x), axis=-1), 1, rtol=1e-4)
    np.testing.assert_array_equal(layer_norm(jnp.ones((2, 3))), np.zeros((2, 3)))
