"""The DLRM-MLP baseline: no routing, dot products, and that it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from unisc.models.dlrm import DLRM, DLRMConfig
from unisc.objectives.ranking import bce


def build(spec, interaction="none", **kwargs):
    config = DLRMConfig(embed_dim=4, hidden_dims=(16, 8), interaction=interaction)
    graphdef, params = nnx.split(DLRM(config, spec, rngs=nnx.Rngs(0), **kwargs))
    return params, jax.jit(lambda params, rows, batch: nnx.merge(graphdef, params)(rows, batch))


def test_the_domain_id_alone_does_not_route(make_spec, make_batch, make_rows):
    spec = make_spec()
    batch = make_batch(spec)
    params, score = build(spec)
    other = batch._replace(domain=(batch.domain + 1) % 3)
    np.testing.assert_array_equal(score(params, make_rows(batch), batch), score(params, make_rows(batch), other))


def test_dot_products_of_all_pairs_reach_the_mlp(make_spec, make_batch, make_rows):
    spec = make_spec(no_history=True)
    batch = make_batch(spec)
    params, score = build(spec, "dot")
    num_dots = 20 * 19 // 2
    kernel = params["first"]["candidate"]
    assert kernel.shape[0] == 12 * 4 + 2 + num_dots
    # With only the dot products left, negating every embedding changes nothing.
    kernel[...] = kernel[...].at[:-num_dots].set(0.0)
    params["first"]["request"][...] = jnp.zeros_like(params["first"]["request"][...])
    rows = make_rows(batch)
    np.testing.assert_allclose(score(params, rows, batch), score(params, -rows, batch), rtol=1e-6)


def test_it_learns_and_starts_at_its_bias(make_spec, make_batch, make_rows):
    spec = make_spec()
    batch = make_batch(spec)
    params, score = build(spec, bias_init=(-1.0, -3.0))
    rows = make_rows(batch)
    np.testing.assert_allclose(np.mean(score(params, rows, batch), axis=0), [-1.0, -3.0], atol=0.3)
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(params, state):
        loss, grads = jax.value_and_grad(lambda p: bce(score(p, rows, batch), batch.labels, batch.weights))(params)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, loss

    state, loss = optimizer.init(params), None
    for _ in range(200):
        params, state, loss = step(params, state)
    assert loss < 0.05
