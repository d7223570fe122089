"""Closed-form counts of every ranker: parameters by its tree, FLOPs by its trace and XLA, bytes by its program."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from unisc.models import dcn, hhsft, hstu, onetrans, rankmixer, transformer, zoo
from unisc.models.counts import ByteCount, FlopCount
from unisc.models.ladder import hhsft_ladder
from unisc.models.tokenmixer_large import TokenMixerLargeConfig
from unisc.models.trace import count, count_jaxpr
from unisc.nn.slots import CONTEXTS

E = 8
SIZES = ("xxs", "xs", "s", "m", "l", "xl", "xxl")
ENDS = ("xxs", "xxl")
OTHERS = {
    "dcn": [{"num_cross_layers": 3, "hidden_dims": (5,)}],
    "din": [{"hidden_dims": (5,), "attention_dim": 3}],
    "dlrm": [{"hidden_dims": (5,)}],
    "hhsft": [{"num_hfa_layers": 2, "num_gfa_sets": 3, "ffn_multiplier": 3, "expert_multiplier": 1}],
    "hiformer": [{"num_layers": 1}, {"num_layers": 3, "ffn_multiplier": 3}],
    "hstu": [{"num_layers": 1, "age_field": ""}, {"num_layers": 3, "num_heads": 3, "qk_dim": 3, "v_dim": 4}],
    "onetrans": [{"num_request_tokens": 0, "num_layers": 1}, {"pyramid": False, "ffn_multiplier": 3}],
    "rankmixer": [{"num_layers": 3, "num_tokens": 4}],
    "tokenmixer_large": [{"num_layers": 5, "num_tokens": 3}],
    "transformer": [{"num_layers": 3, "num_heads": 4, "ffn_hidden": 12}],
    "wukong": [{"num_layers": 3, "hidden_dims": (5,), "num_fmb": 1}, {"num_fmb": 24, "num_lcb": 4}],
}
"""Sizes that no ladder has, by the fields replaced in its size "s"."""
FEATURES = {
    "no_history": {"no_history": True},
    "no_events": {"history_len": 0},
    "candidate_and_history": {"without": ("user", "query", "domain")},
    "candidate": {"without": ("user", "query", "domain"), "no_history": True, "domains": ("search",), "tasks": ("click",)},
}


def leaves_of(model):
    return jax.tree.leaves(nnx.state(model, nnx.Param))


def abstract(config, spec):
    """Return a function (state, rows, batch) that scores, and its state's shapes: no size costs anything."""
    model = nnx.eval_shape(lambda: zoo.build(config, spec, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(model)
    return (lambda state, rows, batch: nnx.merge(graphdef, state)(rows, batch)), state, leaves_of(model)


def rows_of(batch):
    return jax.ShapeDtypeStruct((batch.unique_rows.shape[0], E), jnp.float32)


def check_params(config, spec, leaves):
    params = zoo.ranker_of(config).num_params(config, spec)
    assert params.dense == sum(leaf.size for leaf in leaves) and all(leaf.size for leaf in leaves)
    assert params.embedding == spec.num_rows * config.embed_dim and 0 < params.active <= params.dense - params.train_only
    return params


def check_flops(config, spec, traced):
    flops = zoo.ranker_of(config).flops_per_example(config, spec)
    assert traced.products == flops.forward(num_candidates=24, num_requests=6)
    return flops


@pytest.mark.parametrize("size", SIZES)
def test_every_size_is_counted_exactly_and_xla_agrees(make_spec, make_full, counted, size):
    """Closed form = products of the trace; and with the trace's elementwise work, what XLA counts of the program as written."""
    spec = make_spec()
    batch, config = make_full(spec), counted.config(size, embed_dim=E)
    score, state, leaves = abstract(config, spec)
    params = check_params(config, spec, leaves)
    traced = jax.jit(score).trace(state, rows_of(batch), batch)
    work = count_jaxpr(traced.jaxpr.jaxpr)
    flops = check_flops(config, spec, work)
    routes = getattr(config, "isolation", "none") != "none" or getattr(config, "active_experts", 1) > 1
    assert (params.active < params.dense - params.train_only) == (flops.candidate_active < flops.candidate) == routes
    if size in ENDS:
        lowered = traced.lower()
        measured, moved = lowered.cost_analysis(), zoo.bytes_per_example(config, spec)
        assert measured["flops"] == pytest.approx(work.products + work.elementwise, rel=0.01)
        assert measured.get("transcendentals", 0) == work.transcendental
        assert moved.forward(num_candidates=24, num_requests=6) <= measured["bytes accessed"]
        check_bytes(config, spec, batch, moved, lowered)


@pytest.mark.slow
@pytest.mark.parametrize("size", [size for size in SIZES if size not in ENDS])
def test_xla_agrees_at_the_sizes_between(make_spec, make_full, counted, size):
    spec = make_spec()
    batch, config = make_full(spec), counted.config(size, embed_dim=E)
    score, state, _ = abstract(config, spec)
    traced = jax.jit(score).trace(state, rows_of(batch), batch)
    work, measured = count_jaxpr(traced.jaxpr.jaxpr), traced.lower().cost_analysis()
    assert measured["flops"] == pytest.approx(work.products + work.elementwise, rel=0.01)


@pytest.mark.parametrize(
    "config",
    [
        *(dcn.PUBLISHED["mlperf"], hstu.PUBLISHED["mtgr-small"], onetrans.PUBLISHED["onetrans-s"]),
        *(rankmixer.PUBLISHED["100M"], transformer.reference(256)),
        TokenMixerLargeConfig(embed_dim=16, num_tokens=16, dim=768, ffn_dim=768, num_experts=4, active_experts=2),
    ],
    ids=lambda config: type(config).__name__,
)
def test_at_published_sizes_the_closed_form_alone_is_within_a_percent_of_xla(make_spec, make_full, config):
    spec = make_spec()
    batch = make_full(spec)
    score, state, leaves = abstract(config, spec)
    check_params(config, spec, leaves)
    rows = jax.ShapeDtypeStruct((batch.unique_rows.size, config.embed_dim), jnp.float32)
    counted = zoo.ranker_of(config).flops_per_example(config, spec).forward(num_candidates=24, num_requests=6)
    assert jax.jit(score).lower(state, rows, batch).cost_analysis()["flops"] == pytest.approx(counted, rel=0.01)


def test_what_is_compiled_costs_about_what_is_written(make_spec, make_full):
    """Fusions repeat or drop a little elementwise work; the products stay."""
    spec = make_spec()
    batch, config = make_full(spec), hhsft_ladder(embed_dim=E)["xl"]
    score, state, _ = abstract(config, spec)
    work = count(score, state, rows_of(batch), batch)
    compiled = jax.jit(score).lower(state, rows_of(batch), batch).compile().cost_analysis()
    assert compiled["flops"] == pytest.approx(work.products + work.elementwise, rel=0.02)


@pytest.mark.parametrize("features", FEATURES)
def test_any_features_and_depths_are_counted_exactly(make_spec, make_full, counted, features):
    spec = make_spec(**FEATURES[features])
    batch = make_full(spec)
    for changes in OTHERS[counted.ranker]:
        config = counted.config("s", embed_dim=E, **changes)
        score, state, leaves = abstract(config, spec)
        check_params(config, spec, leaves)
        check_flops(config, spec, count(score, state, rows_of(batch), batch))


@pytest.mark.parametrize("ranker", ["dcn", "wukong"])
def test_a_request_alone_is_counted_exactly(make_spec, make_full, ranker):
    full = make_spec(no_history=True)
    spec = dataclasses.replace(full, fields=full.at("request")[:1], numeric=())
    batch, config = make_full(spec), zoo.config_of(ranker, "s", embed_dim=E)
    score, state, leaves = abstract(config, spec)
    check_params(config, spec, leaves)
    check_flops(config, spec, count(score, state, rows_of(batch), batch))


def arguments_of(lowered):
    """Return the bytes of the arguments that a program reads; what it does not read is no argument of it."""
    signature = next(line for line in lowered.as_text().splitlines() if "@main(" in line).split("->")[0]
    sizes = {"i1": 1, "i32": 4, "f32": 4, "bf16": 2}
    total = 0
    for shape in re.findall(r"tensor<([^>]*)>", signature):
        *dims, kind = shape.split("x")
        total += sizes[kind] * functools.reduce(int.__mul__, map(int, dims), 1)
    return total


def check_bytes(config, spec, batch, moved, lowered):
    """Hold bytes against a program's arguments and results, whose ids all name rows of their own, so that each is read once."""
    total = moved.forward(num_candidates=24, num_requests=6)
    if getattr(config, "age_field", None) == "h_age" and spec.at("history"):
        total += 4 * (batch.unique_rows.size - 6 * spec.history_len)  # given the stored row of every id, it reads those of ages
    results = sum(out.size * out.dtype.itemsize for out in jax.tree.leaves(lowered.out_info))
    assert arguments_of(lowered) + results == total


@pytest.mark.parametrize("ranker", ["dlrm", "hstu"])
@pytest.mark.parametrize("features", [{}, {"no_history": True}])
def test_bytes_in_bfloat16(make_spec, make_full, ranker, features):
    spec = make_spec(**features)
    batch, config = make_full(spec), zoo.config_of(ranker, "xs", embed_dim=E)
    score, state, _ = abstract(config, spec)
    narrow = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16 if x.dtype == jnp.float32 else x.dtype),
        (state, rows_of(batch), batch),
    )
    check_bytes(config, spec, batch, zoo.bytes_per_example(config, spec, itemsize=2), jax.jit(score).lower(*narrow))


def test_bytes_are_what_a_compiled_program_holds_of_arguments_and_results(make_spec, make_full):
    spec = make_spec()
    batch, config = make_full(spec), zoo.config_of("dlrm", "xxs", embed_dim=E)
    score, state, _ = abstract(config, spec)
    held = jax.jit(score).lower(state, rows_of(batch), batch).compile().memory_analysis()
    moved = zoo.bytes_per_example(config, spec)
    assert held.argument_size_in_bytes + held.output_size_in_bytes == moved.forward(num_candidates=24, num_requests=6)
    assert moved.batch == 4 * zoo.RANKERS["dlrm"].num_params(config, spec).dense


def test_weights_are_moved_once_a_batch_and_the_rest_by_what_is_scored():
    moved = ByteCount(batch=1000, request=50, candidate=3)
    assert moved.forward(num_candidates=10, num_requests=2) == 1130
    assert moved.forward(num_candidates=10, num_requests=2, num_batches=5) == 5130


def test_active_parameters_leave_out_the_private_ones_of_other_domains(make_spec):
    spec, config = make_spec(), hhsft_ladder(embed_dim=E)["s"]
    model = nnx.eval_shape(lambda: hhsft.HHSFT(config, spec, rngs=nnx.Rngs(0)))
    private = sum(leaf.size for part in (model.fusion.experts, model.heads) for leaf in leaves_of(part))
    params, alone = (hhsft.num_params(config, s) for s in (spec, make_spec(domains=("search",))))
    assert params.dense - params.active == private * 2 // 3 and alone.active == alone.dense


def test_variants_of_isolation_have_equal_dense_parameters(make_spec):
    spec = make_spec()
    for name, config in hhsft_ladder(embed_dim=E).items():
        target = hhsft.num_params(config, spec).dense
        for isolation in hhsft.ISOLATIONS:
            variant = hhsft_ladder(embed_dim=E, isolation=isolation)[name]
            # One hidden unit of the widened shared expert is the finest step there is.
            assert abs(hhsft.num_params(variant, spec).dense - target) <= config.gfa_dim + 1


def test_training_is_three_forward_passes_and_routing_saves_the_foreign_experts(make_spec):
    flops = FlopCount(candidate=100, candidate_active=80, request=7)
    assert flops.train(num_candidates=10, num_requests=2) == 3 * (1000 + 14)
    config, spec = hhsft_ladder(embed_dim=E)["m"], make_spec()
    counted = hhsft.flops_per_example(config, spec)
    saved = 2 * (2 * 2 * config.gfa_dim * config.expert_hidden + 2 * config.gfa_dim * (config.gfa_dim + 2))
    assert counted.candidate - counted.candidate_active == saved


def test_a_shared_context_moves_work_from_candidates_to_requests(make_spec):
    spec = make_spec()
    for ranker in ("hhsft", "hstu", "onetrans", "transformer"):
        joint, shared = (dataclasses.replace(zoo.config_of(ranker, "m", embed_dim=E), context=mode) for mode in CONTEXTS)
        each, once = (zoo.RANKERS[ranker].flops_per_example(config, spec) for config in (joint, shared))
        assert once.candidate < each.candidate and once.request > each.request


def test_a_trace_is_counted_by_xlas_rules_and_an_unknown_operation_is_named():
    x = jnp.ones((6, 4), jnp.float32)

    def function(x):
        return jax.nn.sigmoid(x @ x.T) * 2.0 + jnp.sum(x, axis=1) ** 3

    work, measured = count(function, x), jax.jit(function).lower(x).cost_analysis()
    assert (work.products, work.transcendental) == (2 * 6 * 6 * 4, 36)
    assert work.elementwise == 36 * (3 + 2) + 6 * 3 + 6 * 2
    assert measured["flops"] == work.products + work.elementwise
    with pytest.raises(ValueError, match="cumsum: an operation without a rule; add one to"):
        count(lambda x: jnp.cumsum(x, axis=0), x)
