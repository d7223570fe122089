"""The chunked loss is the plain one, with its gradients, and never holds the logits of a whole batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unisc.objectives.language import next_token_loss


def arrays(rows=3, length=7, dim=5, vocab=11, dtype="float32"):
    rng = np.random.default_rng(0)
    hidden, vectors = (jnp.asarray(rng.normal(size=shape), dtype) for shape in ((rows, length, dim), (vocab, dim)))
    targets = jnp.asarray(rng.integers(0, vocab, (rows, length)), jnp.int32)
    weights = jnp.asarray(rng.random((rows, length)) * (rng.random((rows, length)) < 0.7), jnp.float32)
    return hidden, vectors, targets, weights


def plain(hidden, vectors, targets, weights):
    logs = jax.nn.log_softmax(hidden @ vectors.T, axis=-1)
    own = jnp.take_along_axis(logs, targets[..., None], axis=-1)[..., 0]
    return -jnp.sum(own * weights) / jnp.sum(weights)


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_loss_and_gradients_are_those_of_the_plain_one(chunk):
    hidden, vectors, targets, weights = arrays()
    found = jax.jit(lambda *a: next_token_loss(*a, chunk=chunk))(hidden, vectors, targets, weights)
    np.testing.assert_allclose(found.mean, plain(hidden, vectors, targets, weights), rtol=1e-6)
    np.testing.assert_allclose(found.num_tokens, np.sum(weights), rtol=1e-6)

    def slopes(call):
        of = lambda h, v, w: jnp.sin(call(h, v, targets, w))  # noqa: E731  (its slope is not 1)
        return jax.grad(of, argnums=(0, 1, 2))(hidden, vectors, weights)

    mine = slopes(lambda *a: next_token_loss(*a, chunk=chunk).mean)
    for a, b in zip(mine, slopes(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_no_weight_is_no_loss_and_no_gradient():
    hidden, vectors, targets, weights = arrays()
    value, slope = jax.value_and_grad(lambda h: next_token_loss(h, vectors, targets, 0 * weights, chunk=2).mean)(hidden)
    assert float(value) == 0 and not np.any(slope)


def test_huge_logits_do_not_overflow():
    hidden, vectors, targets, weights = arrays()
    value, slope = jax.value_and_grad(lambda h: next_token_loss(h, vectors, targets, weights, chunk=3).mean)(1e4 * hidden)
    assert np.isfinite(value) and np.all(np.isfinite(slope))


def test_sixteen_bits_are_read_and_float32_summed():
    hidden, vectors, targets, weights = arrays(rows=2, length=64, dtype="bfloat16")
    wide = plain(hidden.astype(jnp.float32), vectors.astype(jnp.float32), targets, weights)
    found = next_token_loss(hidden, vectors, targets, weights, chunk=16)
    assert found.mean.dtype == jnp.float32
    np.testing.assert_allclose(found.mean, wide, rtol=1e-5)  # 16-bit products are exact in float32
    slopes = jax.grad(lambda h, v: next_token_loss(h, v, targets, weights, chunk=16).mean, argnums=(0, 1))(hidden, vectors)
    wanted = jax.grad(plain, argnums=(0, 1))(hidden.astype(jnp.float32), vectors.astype(jnp.float32), targets, weights)
    for a, b in zip(slopes, wanted, strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(a.astype(jnp.float32), b, atol=0.02 * float(jnp.max(jnp.abs(b))))


def test_logits_of_a_whole_batch_are_never_held():
    shapes = [
        jax.ShapeDtypeStruct(s, t)
        for s, t in (((2, 64, 4), "float32"), ((512, 4), "float32"), ((2, 64), "int32"), ((2, 64), "float32"))
    ]

    def held(chunk):
        slope = jax.jit(jax.grad(lambda *a: next_token_loss(*a, chunk=chunk).mean, argnums=(0, 1)))
        return slope.lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    whole = 2 * 64 * 512 * 4
    assert held(64) > whole > 3 * held(4)
