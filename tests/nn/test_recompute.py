"""Layers computed again in the backward pass: the same gradients from less memory, for every ranker that has layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from unisc.nn.linear import Linear
from unisc.nn.recompute import recompute, recomputing


class Wide(nnx.Module):
    """A layer whose activations are much larger than its input."""

    def __init__(self, dim, *, rngs):
        self.up, self.down = Linear(dim, 32 * dim, rngs=rngs), Linear(32 * dim, dim, rngs=rngs)

    def __call__(self, x, shift):
        return x + self.down(jnp.sin(jax.nn.silu(self.up(x)))) + shift[:, None]


@pytest.fixture(scope="module")
def stack():
    """Return the loss of six wide layers, its parameters and its input, by whether layers are recomputed."""
    graphdef, params = nnx.split(nnx.List([Wide(8, rngs=nnx.Rngs(i)) for i in range(6)]))
    x, shift = jnp.asarray(np.random.default_rng(0).normal(size=(256, 8)), jnp.float32), jnp.arange(256) % 3

    def slopes(wanted):
        def loss(params, x):
            with recomputing(wanted):
                for layer in nnx.merge(graphdef, params):
                    x = recompute(Wide.__call__, layer, x, shift)
                return jnp.mean(x**2)

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(params, x).compile()

    return params, x, slopes(False), slopes(True)


def test_gradients_are_the_same(stack):
    params, x, plain, again = stack
    for a, b in zip(jax.tree.leaves(plain(params, x)), jax.tree.leaves(again(params, x)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_memory_holds_one_layer_instead_of_all(stack):
    _, _, plain, again = stack
    before, after = (f.memory_analysis().temp_size_in_bytes for f in (plain, again))
    assert after < 0.4 * before
    assert 1.1 < again.cost_analysis()["flops"] / plain.cost_analysis()["flops"] < 4 / 3


def test_nothing_is_recomputed_outside(stack):
    x = stack[1]
    layer = Wide(8, rngs=nnx.Rngs(0))

    def operations(call):
        return [str(equation.primitive) for equation in jax.make_jaxpr(call)(x).eqns]

    assert operations(lambda x: recompute(Wide.__call__, layer, x, x[:, 0])) == operations(lambda x: layer(x, x[:, 0]))
    with recomputing(True):
        assert operations(lambda x: recompute(Wide.__call__, layer, x, x[:, 0])) == ["slice", "squeeze", "custom_vjp_call"]
