"""The ladders: span, names, and one learning rate for all sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from unisc.errors import InputError
from unisc.models import dlrm, hhsft
from unisc.models.ladder import dlrm_ladder, hhsft_ladder
from unisc.objectives.ranking import bce


def test_hhsft_spans_two_orders_of_magnitude_in_even_steps(make_spec):
    spec = make_spec()
    sizes = np.array([hhsft.num_params(c, spec).dense for c in hhsft_ladder(embed_dim=8).values()])
    assert len(sizes) >= 6 and sizes[-1] / sizes[0] >= 100
    assert np.all(sizes[1:] / sizes[:-1] > 1.5) and np.all(sizes[1:] / sizes[:-1] < 3.6)


def test_the_baseline_spans_the_same_sizes(make_spec):
    spec = make_spec()
    ours = [hhsft.num_params(c, spec).dense for c in hhsft_ladder(embed_dim=8).values()]
    base = [dlrm.num_params(c, spec).dense for c in dlrm_ladder(embed_dim=8).values()]
    assert base[-1] / base[0] >= 100
    assert all(0.6 < b / o < 1.6 for b, o in zip(base, ours, strict=True))


def test_one_width_can_grow_alone():
    grown = {grow: hhsft_ladder(embed_dim=8, grow=grow, base="s") for grow in ("both", "hfa", "gfa")}
    assert grown["hfa"]["s"] == grown["gfa"]["s"] == grown["both"]["s"]
    assert {c.gfa_dim for c in grown["hfa"].values()} == {grown["both"]["s"].gfa_dim}
    assert {c.hfa_dim for c in grown["gfa"].values()} == {grown["both"]["s"].hfa_dim}
    with pytest.raises(InputError, match="base: unknown size 'huge'; give one of xxs"):
        hhsft_ladder(embed_dim=8, base="huge")


def test_one_rate_moves_every_size_alike(make_spec, make_batch, make_rows):
    """Over the first steps of a sign descent (Adam without its averages); without the width rule the moves differ 19-fold."""
    spec = make_spec()
    batch = make_batch(spec, num_candidates=96)
    rows, moved = make_rows(batch, 8), {}
    for name in ("xs", "xl"):
        graphdef, params = nnx.split(hhsft.HHSFT(hhsft_ladder(embed_dim=8)[name], spec, rngs=nnx.Rngs(0)))

        @jax.jit
        def step(params, graphdef=graphdef):
            def loss(params):
                scores = nnx.merge(graphdef, params)(rows, batch)
                return bce(scores, batch.labels, batch.weights), scores

            grads, scores = jax.grad(loss, has_aux=True)(params)
            return jax.tree.map(lambda p, g: p - 0.003 * jnp.sign(g), params, grads), scores

        trail = []
        for _ in range(9):
            params, scores = step(params)
            trail.append(scores)
        moved[name] = float(jnp.sqrt(jnp.mean((trail[-1] - trail[0]) ** 2)))
    assert max(moved.values()) / min(moved.values()) < 2.5, moved
