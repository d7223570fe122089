"""Every ranker with layers gives the same gradient whether its layers are kept or computed again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from unisc.models import hhsft, hiformer, hstu, onetrans, rankmixer, tokenmixer_large, transformer, wukong, zoo
from unisc.nn.recompute import recomputing
from unisc.objectives.ranking import bce

E = 4
CONFIGS = {
    "hhsft joint": hhsft.HHSFTConfig(embed_dim=E, hfa_dim=4, gfa_dim=8),
    "hhsft shared": hhsft.HHSFTConfig(embed_dim=E, hfa_dim=4, gfa_dim=8, context="shared"),
    "hiformer": next(iter(hiformer.ladder(embed_dim=E).values())),
    "hstu shared": hstu.HSTUConfig(embed_dim=E, dim=4, num_layers=2, num_heads=2, qk_dim=2, v_dim=2, context="shared"),
    "onetrans joint": next(iter(onetrans.ladder(embed_dim=E).values())),
    "rankmixer": rankmixer.RankMixerConfig(embed_dim=E, num_tokens=4, dim=8, ffn_dim=8, num_layers=1, num_experts=2),
    "tokenmixer_large": next(iter(tokenmixer_large.ladder(embed_dim=E).values())),
    "transformer joint": transformer.ladder(embed_dim=E)["xxs"],
    "transformer shared": transformer.ladder(embed_dim=E, context="shared")["xxs"],
    "wukong": next(iter(wukong.ladder(embed_dim=E).values())),
}


LAYERS = {"hhsft joint": 1, "hhsft shared": 1, "onetrans joint": 3, "rankmixer": 1, "tokenmixer_large": 3, "wukong": 1}


def loss(graphdef, params, rest, rows, batch, wanted):
    model = nnx.merge(graphdef, nnx.State(params), nnx.State(rest))
    with recomputing(wanted):
        if hasattr(model, "with_penalty"):
            logits, penalty = model.with_penalty(rows, batch, lambda x: bce(x, batch.labels, batch.weights))
        else:
            logits, penalty = model(rows, batch), jnp.float32(0.0)
    return bce(logits, batch.labels, batch.weights) + penalty


@pytest.mark.parametrize("name", CONFIGS)
def test_every_layer_is_recomputed_where_wanted(make_spec, make_batch, make_rows, name):
    spec = make_spec()
    batch = make_batch(spec, list_len=24)
    graphdef, *variables = nnx.split(zoo.build(CONFIGS[name], spec, rngs=nnx.Rngs(0)), nnx.Param, ...)
    params, rest = map(nnx.to_pure_dict, variables)

    def num_kept_whole(wanted):
        """Layers, which hold several matrix products, under a gradient of their own (attention's product has one, too)."""
        trace = jax.make_jaxpr(lambda p, r, rows: loss(graphdef, p, r, rows, batch, wanted))(params, rest, make_rows(batch, E))
        calls = [eqn for eqn in trace.eqns if eqn.primitive.name == "custom_vjp_call"]
        return sum(str(call.params["call_jaxpr"]).count("dot_general") > 1 for call in calls)

    assert (num_kept_whole(False), num_kept_whole(True)) == (0, LAYERS.get(name, 2))


@pytest.mark.parametrize("name", ["hhsft shared", "hstu shared", "rankmixer", "transformer joint"])
def test_the_gradient_is_the_same(make_spec, make_batch, make_rows, name):
    """Of layers called with fixed settings, with positions, with booleans or nothing, and plainly."""
    spec = make_spec()
    batch = make_batch(spec, list_len=24)
    graphdef, *variables = nnx.split(zoo.build(CONFIGS[name], spec, rngs=nnx.Rngs(0)), nnx.Param, ...)
    params, rest = map(nnx.to_pure_dict, variables)

    @jax.jit
    def both(params, rest, rows):
        slope = jax.grad(loss, argnums=(1, 3))
        return [slope(graphdef, params, rest, rows, batch, wanted) for wanted in (False, True)]

    kept, again = both(params, rest, make_rows(batch, E))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), kept, again)
    assert any(np.any(g) for g in jax.tree.leaves(again))
