"""What both token mixers promise of their sizes: one learning rate for a ladder, and FLOPs that XLA agrees with."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from unisc.models import rankmixer, tokenmixer_large
from unisc.models.rankmixer import RankMixer
from unisc.models.tokenmixer_large import TokenMixerLarge, TokenMixerLargeConfig
from unisc.objectives.ranking import bce


@pytest.mark.parametrize("experts", [{}, {"num_experts": 2, "active_experts": 2}], ids=["dense", "sparse"])
@pytest.mark.parametrize(("model", "module"), [(RankMixer, rankmixer), (TokenMixerLarge, tokenmixer_large)])
def test_one_rate_moves_every_size_alike(make_spec, make_batch, make_rows, model, module, experts):
    """Over the first steps of a sign descent (Adam without its averages), as HHSFT's ladder is held to."""
    spec = make_spec()
    batch = make_batch(spec, num_candidates=96)
    rows, moved = make_rows(batch, 8), {}
    for name in ("xs", "xl"):
        config = module.ladder(embed_dim=8, **experts)[name]
        graphdef, params, rest = nnx.split(model(config, spec, rngs=nnx.Rngs(0)), nnx.Param, ...)

        @jax.jit
        def step(params, graphdef=graphdef, rest=rest):
            def loss(params):
                scores = nnx.merge(graphdef, params, rest)(rows, batch)
                return bce(scores, batch.labels, batch.weights), scores

            grads, scores = jax.grad(loss, has_aux=True)(params)
            return jax.tree.map(lambda p, g: p - 0.003 * jnp.sign(g), params, grads), scores

        trail = []
        for _ in range(9):
            params, scores = step(params)
            trail.append(scores)
        moved[name] = float(jnp.sqrt(jnp.mean((trail[-1] - trail[0]) ** 2)))
    assert max(moved.values()) / min(moved.values()) < 1.5, moved


LARGE = TokenMixerLargeConfig(embed_dim=16, num_tokens=16, dim=768, ffn_dim=768, num_experts=4, active_experts=2)


@pytest.mark.parametrize(
    ("model", "module", "config"),
    [(RankMixer, rankmixer, rankmixer.PUBLISHED["100M"]), (TokenMixerLarge, tokenmixer_large, LARGE)],
)
def test_flops_agree_with_xla(make_spec, make_batch, make_rows, model, module, config):
    """On shapes alone: nothing of this size is computed."""
    spec = make_spec()
    batch = make_batch(spec, num_candidates=64)
    graphdef, params = nnx.split(nnx.eval_shape(lambda: model(config, spec, rngs=nnx.Rngs(0))))
    rows = make_rows(batch, 16)
    lowered = jax.jit(lambda p, rows: nnx.merge(graphdef, p)(rows, batch)).lower(params, rows)
    counted = module.flops_per_example(config, spec).forward(num_candidates=64, num_requests=6)
    assert lowered.cost_analysis()["flops"] == pytest.approx(counted, rel=0.02)
