"""Attention by its own products and by the kernel's function are one; the kernel is asked for where it can serve."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unisc.nn import attention
from unisc.nn.attention import BLOCKED, causal_attention, fits_kernel, fused_attention, masked_attention, query_key_products


def arrays(batch=3, queries=6, keys=8, heads=2, head_dim=8, dtype="float32"):
    rng = np.random.default_rng(0)
    shapes = [(batch, n, heads, head_dim) for n in (queries, keys, keys)]
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def mask(kind, queries=6, keys=8):
    real = np.random.default_rng(1).random((3, 1, keys)) < 0.6
    real[1] = True
    real[2] = False  # nothing to see
    if kind == "causal":
        real = real & (np.arange(keys) <= np.arange(queries)[:, None])
    return jnp.where(jnp.asarray(real), 0.0, BLOCKED), real


@pytest.mark.parametrize("kind", ["padding", "causal"])
def test_both_ways_and_their_gradients_agree_and_blocked_keys_do_not_count(kind):
    q, k, v = arrays()
    blocked, real = mask(kind)

    def loss(call, q, k, v):
        return jnp.sum(jnp.sin(call(q, k, v, blocked))[:2])  # what sees nothing is read by nothing

    def fused(*of):
        return fused_attention(*of, implementation="xla")

    np.testing.assert_allclose(masked_attention(q, k, v, blocked), fused(q, k, v, blocked), rtol=1e-5, atol=1e-6)
    mine, theirs = (jax.grad(loss, argnums=(1, 2, 3))(call, q, k, v) for call in (masked_attention, fused))
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    unseen = ~np.broadcast_to(real, (3, 6, 8))[0].any(axis=0)
    assert unseen.any() and not np.any(np.asarray(mine[2])[0, unseen])
    np.testing.assert_allclose(masked_attention(q, k, v, blocked)[2], np.broadcast_to(v[2].mean(axis=0), (6, 2, 8)), rtol=1e-4)


def test_sixteen_bits_agree_to_their_precision():
    q, k, v = arrays(dtype="bfloat16")
    blocked = mask("padding")[0].astype(jnp.bfloat16)
    with jax.numpy_dtype_promotion("standard"):  # JAX's own function promotes
        theirs = fused_attention(q, k, v, blocked, implementation="xla")
    mine = masked_attention(q, k, v, blocked)
    assert mine.dtype == theirs.dtype == jnp.bfloat16
    np.testing.assert_allclose(mine.astype(jnp.float32), theirs.astype(jnp.float32), atol=0.03)


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        ({}, True),
        ({"dtype": "float32"}, False),
        ({"head_dim": 12}, False),
        ({"head_dim": 256}, False),
        ({"queries": 87}, False),
        ({"queries": 6, "keys": 6}, False),
    ],
)
def test_the_kernel_is_asked_for_where_it_serves(change, fits):
    q, k, _ = arrays(**{"batch": 1, "queries": 88, "keys": 88, "head_dim": 16, "dtype": "bfloat16"} | change)
    assert fits_kernel(q, k) is fits


def test_a_gpu_gets_the_kernel_and_a_cpu_does_not(monkeypatch):
    asked = []
    monkeypatch.setattr(attention, "fused_attention", lambda q, *rest, implementation: asked.append(implementation) or q)
    q, k, v = arrays(batch=1, queries=88, keys=88, head_dim=16, dtype="bfloat16")
    for backend in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        masked_attention(q, k, v, jnp.zeros((1, 1, 88), jnp.bfloat16))
    assert asked == ["cudnn"]


def test_products_of_queries_and_keys_have_the_gradient_of_the_plain_ones():
    q, k, _ = arrays()
    weights = jnp.asarray(np.random.default_rng(2).normal(size=(3, 2, 6, 8)), jnp.float32)

    def loss(product, q, k):
        return jnp.sum(weights * jnp.sin(product(q, k)))

    def plain(q, k):
        return jnp.einsum("btnh,bsnh->bnts", q, k)

    for a, b in zip(*(jax.grad(loss, argnums=(1, 2))(call, q, k) for call in (query_key_products, plain)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("block", [3, 4, 100])
def test_causal_attention_in_blocks_is_the_masked_one_of_heads_that_share_keys(monkeypatch, block, padded):
    monkeypatch.setattr(attention, "QUERY_BLOCK", block)
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(3, 8, heads, 6)), jnp.float32) for heads in (4, 2, 2))
    real = np.arange(8) >= np.array([[0], [2], [5]]) if padded else np.ones((3, 8), bool)  # left, so that row ends are read
    valid = jnp.asarray(real) if padded else None
    blocked = jnp.where(jnp.asarray(real[:, None] & np.tril(np.ones((8, 8), bool))), 0.0, BLOCKED)

    def loss(call, *of):
        return jnp.sum(jnp.where(real[..., None, None], jnp.sin(call(*of)), 0.0))

    def whole(q, k, v):
        return masked_attention(q, jnp.repeat(k, 2, axis=2), jnp.repeat(v, 2, axis=2), blocked)

    mine = jax.value_and_grad(lambda *of: loss(lambda *of: causal_attention(*of, valid), *of), argnums=(0, 1, 2))(q, k, v)
    theirs = jax.value_and_grad(lambda *of: loss(whole, *of), argnums=(0, 1, 2))(q, k, v)
    for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
