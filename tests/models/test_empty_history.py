"""A user without a history is no error: every ranker, in each of its contexts, gives finite scores and gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from unisc.errors import InputError
from unisc.models import hstu, zoo
from unisc.nn.slots import CONTEXTS
from unisc.objectives.ranking import bce

CASES = [
    (name, context)
    for name in zoo.RANKERS
    for context in (CONTEXTS if hasattr(zoo.config_of(name, "xxs", embed_dim=4), "context") else (None,))
]


@pytest.mark.parametrize("masked", ["all", "some"])
@pytest.mark.parametrize(("name", "context"), CASES)
def test_scores_and_gradients_are_finite_and_nothing_of_an_empty_history_is_read(
    make_spec, make_batch, make_rows, name, context, masked
):
    spec = make_spec()
    batch = make_batch(spec, list_len=14)
    empty = jnp.arange(6) < (6 if masked == "all" else 3)
    batch = batch._replace(history_mask=batch.history_mask & ~empty[:, None])
    config = zoo.config_of(name, "xxs", embed_dim=4)
    if context is not None:
        config = dataclasses.replace(config, context=context)
    graphdef, params, rest = nnx.split(zoo.build(config, spec, rngs=nnx.Rngs(0)), nnx.Param, ...)

    @jax.jit
    def slope(params, rows, batch):
        def loss(params, rows):
            logits = nnx.merge(graphdef, params, rest)(rows, batch)
            return bce(logits, batch.labels, batch.weights), logits

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, rows)

    rows = make_rows(batch)
    (_, logits), grads = slope(params, rows, batch)
    assert np.isfinite(logits).all()
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    other = batch._replace(history_ids=jnp.where(empty[:, None, None], 7, batch.history_ids))
    np.testing.assert_array_equal(slope(params, rows, other)[0][1], logits)


def test_a_field_of_ages_that_the_data_do_not_have_is_refused_unless_it_is_the_usual_one(make_spec):
    config = zoo.config_of("hstu", "xxs", embed_dim=4)
    assert config.age_field == "history_age" and hstu.Shape.of(config, make_spec()).num_ages == 0
    with pytest.raises(InputError, match=r"age_field 'h_agee': not a history field; give one of h_item, .*h_age, or ''"):
        hstu.Shape.of(dataclasses.replace(config, age_field="h_agee"), make_spec())
