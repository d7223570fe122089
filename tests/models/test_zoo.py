"""Every ranker can be named, sized and built by one line, and runs in bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from unisc.errors import InputError
from unisc.models import zoo


@pytest.mark.parametrize("name", zoo.RANKERS)
def test_every_ranker_runs_in_bfloat16(make_spec, make_batch, make_rows, name):
    batch = make_batch(make_spec(), list_len=14)
    rows = make_rows(batch)
    config = zoo.config_of(name, "xs", embed_dim=4)
    assert zoo.ranker_of(config) is zoo.RANKERS[name]
    graphdef, state = nnx.split(zoo.build(config, make_spec(), rngs=nnx.Rngs(0)))

    def narrow(x):
        return x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x

    score = jax.jit(lambda state, rows, batch: nnx.merge(graphdef, state)(rows, batch))
    exact, rough = score(state, rows, batch), score(*jax.tree.map(narrow, (state, rows, batch)))
    np.testing.assert_allclose(rough.astype(jnp.float32), exact, atol=0.05)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [("hhsf", "m", "model 'hhsf': unknown; give one of dcn, din"), ("dlrm", "huge", "size 'huge': unknown for dlrm; give one")],
)
def test_an_unknown_name_is_one_line(name, size, message):
    with pytest.raises(InputError, match=message):
        zoo.config_of(name, size, embed_dim=4)
