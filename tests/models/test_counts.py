"""Closed-form counts against the model itself: parameters exactly, FLOPs against its trace and against XLA."""

import jax
import pytest
from flax import nnx

from unisc.models import dlrm, hhsft
from unisc.models.counts import FlopCount
from unisc.models.ladder import dlrm_ladder, hhsft_ladder

E = 8


def num_dense(model):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def specs(make_spec):
    return (make_spec(), make_spec(domains=("search",), tasks=("click",), without=("query",), no_history=True))


def deeper(config, replaced):
    return replaced(config, num_hfa_layers=2, num_gfa_sets=3, ffn_multiplier=3, expert_multiplier=1)


@pytest.mark.parametrize("isolation", hhsft.ISOLATIONS)
def test_hhsft_parameters_are_counted_exactly(make_spec, replaced, isolation):
    sizes = list(hhsft_ladder(embed_dim=E, isolation=isolation).values())
    full, bare = specs(make_spec)
    for spec, configs in ((full, sizes), (bare, [sizes[0], deeper(sizes[2], replaced)])):
        for config in configs:
            count = hhsft.num_params(config, spec)
            model = nnx.eval_shape(lambda c=config, s=spec: hhsft.HHSFT(c, s, rngs=nnx.Rngs(0)))
            assert count.dense == num_dense(model)
            assert count.embedding == spec.num_rows * E
            assert (count.active < count.dense) == (isolation != "none" and len(spec.domains) > 1)


def test_active_parameters_leave_out_the_private_ones_of_other_domains(make_spec):
    spec = make_spec()
    config = hhsft_ladder(embed_dim=E)["s"]
    model = hhsft.HHSFT(config, spec, rngs=nnx.Rngs(0))
    private = num_dense(model.fusion.experts) + num_dense(model.heads)
    count = hhsft.num_params(config, spec)
    assert count.dense - count.active == private * 2 // 3


def test_variants_of_isolation_have_equal_dense_parameters(make_spec):
    spec = make_spec()
    for name, config in hhsft_ladder(embed_dim=E).items():
        target = hhsft.num_params(config, spec).dense
        for isolation in hhsft.ISOLATIONS:
            variant = hhsft_ladder(embed_dim=E, isolation=isolation)[name]
            # One hidden unit of the widened shared expert is the finest step there is.
            assert abs(hhsft.num_params(variant, spec).dense - target) <= config.gfa_dim + 1


@pytest.mark.parametrize("interaction", ["none", "dot"])
def test_dlrm_parameters_are_counted_exactly(make_spec, interaction):
    for spec in specs(make_spec):
        for config in dlrm_ladder(embed_dim=E, interaction=interaction).values():
            model = nnx.eval_shape(lambda c=config, s=spec: dlrm.DLRM(c, s, rngs=nnx.Rngs(0)))
            count = dlrm.num_params(config, spec)
            assert count.dense == count.active == num_dense(model)


@pytest.mark.parametrize("isolation", hhsft.ISOLATIONS)
def test_hhsft_flops_equal_the_matrix_products_of_its_trace(
    make_spec, make_batch, make_rows, replaced, num_matmul_flops, isolation
):
    sizes = hhsft_ladder(embed_dim=E, isolation=isolation)
    for spec, config in zip(specs(make_spec), (deeper(sizes["m"], replaced), sizes["xs"]), strict=True):
        batch = make_batch(spec)
        model = hhsft.HHSFT(config, spec, rngs=nnx.Rngs(0))
        traced = num_matmul_flops(jax.make_jaxpr(model.__call__)(make_rows(batch, E), batch).jaxpr)
        assert traced == hhsft.flops_per_example(config, spec).forward(num_candidates=24, num_requests=6)


@pytest.mark.parametrize("interaction", ["none", "dot"])
def test_dlrm_flops_equal_the_matrix_products_of_its_trace(make_spec, make_batch, make_rows, num_matmul_flops, interaction):
    config = dlrm_ladder(embed_dim=E, interaction=interaction)["s"]
    for spec in specs(make_spec):
        batch = make_batch(spec)
        model = dlrm.DLRM(config, spec, rngs=nnx.Rngs(0))
        traced = num_matmul_flops(jax.make_jaxpr(model.__call__)(make_rows(batch, E), batch).jaxpr)
        assert traced == dlrm.flops_per_example(config, spec).forward(num_candidates=24, num_requests=6)


def test_flops_agree_with_xla(make_spec, make_batch, make_rows):
    """XLA also counts elementwise work, a few percent at a large size and more the smaller the model."""
    spec = make_spec()
    batch = make_batch(spec, num_candidates=64)
    config = hhsft_ladder(embed_dim=E)["xl"]
    graphdef, params = nnx.split(hhsft.HHSFT(config, spec, rngs=nnx.Rngs(0)))
    lowered = jax.jit(lambda p, rows: nnx.merge(graphdef, p)(rows, batch)).lower(params, make_rows(batch, E))
    measured = lowered.compile().cost_analysis()["flops"]
    counted = hhsft.flops_per_example(config, spec).forward(num_candidates=64, num_requests=6)
    assert 1.0 <= measured / counted < 1.06


def test_training_is_three_forward_passes_and_routing_saves_the_foreign_experts(make_spec):
    flops = FlopCount(candidate=100, candidate_active=80, request=7)
    assert flops.train(num_candidates=10, num_requests=2) == 3 * (1000 + 14)
    config, spec = hhsft_ladder(embed_dim=E)["m"], make_spec()
    counted = hhsft.flops_per_example(config, spec)
    saved = 2 * (2 * 2 * config.gfa_dim * config.expert_hidden + 2 * config.gfa_dim * (config.gfa_dim + 2))
    assert counted.candidate - counted.candidate_active == saved
