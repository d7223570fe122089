"""Flat candidates and lists are each other's transposes, also for gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unisc.errors import InputError
from unisc.nn.lists import from_lists, to_lists


def batch_of(make_batch, make_spec, **options):
    return make_batch(make_spec(), num_candidates=24, num_requests=6, **options)


@pytest.fixture
def batch(make_batch, make_spec):
    """Six requests of 24 candidates, of which the last five are padding (they name request 0)."""
    made = batch_of(make_batch, make_spec, list_len=14)
    index = np.where(np.arange(24) < 19, made.request_index, 0)
    lists = np.where(np.asarray(made.lists) < 19, made.lists, 24)
    return made._replace(request_index=jnp.asarray(index), lists=jnp.asarray(lists))


def test_every_candidate_stands_in_its_requests_row_and_comes_back(batch):
    x = jnp.arange(1.0, 49.0).reshape(24, 2)
    lists = to_lists(x, batch.lists, batch.request_index)
    index = np.asarray(batch.request_index)[:19]
    for r in range(6):
        mine = np.asarray(x)[:19][index == r]
        np.testing.assert_array_equal(lists[r, : len(mine)], mine)
        assert not np.any(lists[r, len(mine) :])
    np.testing.assert_array_equal(from_lists(lists, batch.lists, batch.request_index)[:19], x[:19])
    assert not np.any(from_lists(lists, batch.lists, batch.request_index)[19:])


def test_gradients_are_the_exact_transposes(batch):
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(24, 3)), jnp.float32), jnp.asarray(rng.normal(size=(6, 14, 3)), jnp.float32)
    forward, pull = jax.vjp(lambda x: to_lists(x, batch.lists, batch.request_index), x)
    np.testing.assert_allclose(jnp.vdot(forward, y), jnp.vdot(x, pull(y)[0]), rtol=1e-5)
    np.testing.assert_array_equal(pull(y)[0], from_lists(y, batch.lists, batch.request_index))
    forward, pull = jax.vjp(lambda y: from_lists(y, batch.lists, batch.request_index), y)
    np.testing.assert_array_equal(pull(x)[0], to_lists(x, batch.lists, batch.request_index))


def test_without_slots_it_says_what_is_missing(make_batch, make_spec):
    batch = batch_of(make_batch, make_spec)
    with pytest.raises(InputError, match="list_len 0"):
        to_lists(jnp.zeros((24, 2)), batch.lists, batch.request_index)
