"""The product of rows and a kernel against the einsum that it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unisc.nn.linear import product


def normal(*shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def plain(x, kernel):
    return jnp.einsum("...d,df->...f", x, kernel)


def both_ways(function, x, kernel):
    slopes = normal(*x.shape[:-1], kernel.shape[1], seed=2, dtype=x.dtype)
    value, pull = jax.vjp(function, x, kernel)
    return value, *pull(slopes)


@pytest.mark.parametrize("batch", [(), (5,), (2, 3), (2, 3, 4), (0,)])
@pytest.mark.parametrize("widths", [(8, 3), (3, 8), (4, 4)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_values_and_gradients_are_autodiffs(batch, widths, dtype):
    x, kernel = normal(*batch, widths[0], dtype=dtype), normal(*widths, seed=1, dtype=dtype)
    for found, expected in zip(both_ways(product, x, kernel), both_ways(plain, x, kernel), strict=True):
        assert found.dtype == expected.dtype and found.shape == expected.shape
        wide = found.astype(jnp.float32), expected.astype(jnp.float32)
        np.testing.assert_allclose(*wide, rtol=1e-6 if dtype == jnp.float32 else 2e-2, atol=1e-5)


def test_runs_side_by_side_have_their_own_kernels():
    x, kernels = normal(3, 5, 4), normal(3, 4, 6, seed=1)

    def loss(function):
        return jax.grad(lambda k: jnp.sum(jnp.sin(jax.vmap(function)(x, k))))

    np.testing.assert_allclose(loss(product)(kernels), loss(plain)(kernels), rtol=1e-5, atol=1e-6)


def test_the_kernels_gradient_is_not_turned_after_it_is_multiplied():
    x, kernel = normal(2, 3, 4), normal(4, 6, seed=1)
    slope = jax.make_jaxpr(jax.grad(lambda k: jnp.sum(jnp.sin(product(x, k)))))(kernel)
    assert "dot_general" in str(slope) and "transpose" not in {str(equation.primitive) for equation in slope.eqns}
