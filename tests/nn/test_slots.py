"""Both layouts of candidates beside their context."""

import jax.numpy as jnp
import numpy as np
import pytest

from unisc.errors import InputError
from unisc.nn.slots import Slots

INDEX = jnp.asarray([0, 0, 1, 1, 1], jnp.int32)
LISTS = jnp.asarray([[0, 1, 5], [2, 3, 4]], jnp.int32)


@pytest.mark.parametrize("context", ["joint", "shared"])
def test_candidates_stand_beside_their_own_context_and_come_back(context):
    slots = Slots.of(context, INDEX, LISTS)
    x, of_request = jnp.arange(1.0, 11.0).reshape(5, 2), jnp.asarray([10.0, 20.0])
    beside, contexts = slots.spread(x), slots.of_request(of_request)
    assert beside.shape == ((5, 1, 2) if context == "joint" else (2, 3, 2)) and contexts.shape == beside.shape[:1]
    np.testing.assert_array_equal(slots.collect(beside), x)
    met = slots.collect(beside + contexts[:, None, None])
    np.testing.assert_array_equal(met, x + np.asarray([10, 10, 20, 20, 20.0])[:, None])


def test_a_row_a_request_needs_lists():
    with pytest.raises(InputError, match="list_len 0"):
        Slots.of("shared", INDEX, LISTS[:, :0]).spread(jnp.zeros((5, 2)))
