"""What every ranker promises in every mode: what a score depends on, gradients, where it starts, and its ladder."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from unisc.errors import InputError
from unisc.models import zoo
from unisc.models.ladder import hhsft_ladder
from unisc.nn.slots import CONTEXTS
from unisc.objectives.ranking import bce

FAST = {"xla_backend_optimization_level": "0", "xla_llvm_disable_expensive_passes": "True"}
"""Small programs that run a few times: compiling them is what costs."""

ORDERED = ("hstu", "onetrans")
"""To these a history is a sequence, to all others a set."""

LACKING = {
    "history_alone": {"without": ("user", "query", "domain"), "domains": ("search",), "tasks": ("click",)},
    "query_alone": {"no_history": True, "without": ("user", "domain")},
}


DEEPER = {"hhsft": {"num_hfa_layers": 2, "num_gfa_sets": 3}}
"""So that tokens meet more than once."""


def on(variants):
    """Hold these to a promise, not all."""
    return pytest.mark.parametrize("variant", variants, indirect=True)


@functools.cache
def build(variant, spec, *, size="xs", embed_dim=4):
    """Return parameters, score (params, rows, batch) -> logits, and the gradients of the loss trained on by params and rows.

    What starts at zero (biases, tables by distance) would hide what reads it, so it is drawn here.
    """
    model = zoo.build(variant.config(size, embed_dim=embed_dim, **DEEPER.get(variant.ranker, {})), spec, rngs=nnx.Rngs(0))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    params, rest, rng = nnx.to_pure_dict(params), nnx.to_pure_dict(rest), np.random.default_rng(0)
    params = jax.tree.map(lambda p: p if np.any(p) else jnp.asarray(0.3 * rng.normal(size=p.shape), jnp.float32), params)

    def score(params, rows, batch):
        return nnx.merge(graphdef, nnx.State(params), nnx.State(rest))(rows, batch)

    def loss(params, rows, batch):
        model = nnx.merge(graphdef, nnx.State(params), nnx.State(rest))
        if not hasattr(model, "with_penalty"):
            return bce(model(rows, batch), batch.labels, batch.weights)
        logits, penalty = model.with_penalty(rows, batch, lambda x: bce(x, batch.labels, batch.weights))
        return bce(logits, batch.labels, batch.weights) + penalty

    return (
        params,
        jax.jit(score, compiler_options=FAST),
        jax.jit(jax.grad(loss, argnums=(0, 1)), compiler_options=FAST),
    )


def with_ages(batch, spec):
    """Make the last history field an age: ids of its own table, growing from the most recent event on."""
    first = spec.table_offsets()["age"]
    unique = jnp.concatenate([batch.unique_rows[:30], first + jnp.arange(20, dtype=jnp.int32)])
    ages = np.sort(np.random.default_rng(1).integers(0, 20, batch.history_ids.shape[:2]), axis=1)
    return batch._replace(unique_rows=unique, history_ids=batch.history_ids.at[:, :, -1].set(jnp.asarray(30 + ages, jnp.int32)))


@pytest.fixture
def setting(variant, make_spec, make_batch, make_rows):
    """Return the full features, a batch with lists and ages, and a function of batches that scores."""
    spec = make_spec()
    batch = with_ages(make_batch(spec, list_len=14), spec)
    params, score, _ = build(variant, spec)
    return batch, lambda batch: np.asarray(score(params, make_rows(batch), batch))


def padded(batch):
    """Make the last four candidates padding, full of what must not leak."""
    return batch._replace(
        candidate_ids=batch.candidate_ids.at[-4:].set(0),
        candidate_numeric=batch.candidate_numeric.at[-4:].set(1e6),
        request_index=batch.request_index.at[-4:].set(0),
        domain=batch.domain.at[-4:].set(0),
        lists=jnp.where(batch.lists >= 20, 24, batch.lists),
        weights=batch.weights.at[-4:].set(0.0),
    )


def test_padding_candidates_change_no_other_score(setting):
    batch, score = setting
    before, after = score(batch), score(padded(batch))
    np.testing.assert_array_equal(after[:-4], before[:-4])
    assert np.all(np.isfinite(after))


def test_a_score_depends_on_the_own_request_alone(setting):
    batch, score = setting
    before, mine = score(batch), np.asarray(batch.request_index) == 2
    assert before.shape == (24, 2) and before.dtype == np.float32
    for changed in (
        batch._replace(request_ids=batch.request_ids.at[2].set(0)),
        batch._replace(request_numeric=batch.request_numeric.at[2].multiply(-2.0)),
        batch._replace(history_mask=batch.history_mask.at[2].set(~batch.history_mask[2])),
    ):
        after = score(changed)
        np.testing.assert_array_equal(after[~mine], before[~mine])
        assert np.all(np.any(after[mine] != before[mine], axis=-1)) and np.all(np.isfinite(after))


def test_a_score_depends_on_no_other_candidate(setting):
    batch, score = setting
    before, kept = score(batch), np.arange(24) % 2 == 0
    for changed in (
        batch._replace(candidate_ids=jnp.where(kept[:, None], batch.candidate_ids, 3)),
        batch._replace(candidate_numeric=jnp.where(kept[:, None], batch.candidate_numeric, 9.0)),
    ):
        after = score(changed)
        np.testing.assert_array_equal(after[kept], before[kept])
        assert np.all(np.any(after[~kept] != before[~kept], axis=-1))


def test_each_candidate_is_scored_with_its_own_request(setting):
    """The same lists, every request made a copy of one: its own candidates keep their scores, the others do not."""
    batch, score = setting
    together = score(batch)
    for request in (0, 3):
        of_request = ("request_ids", "history_ids", "history_mask", "request_numeric")
        copies = {n: jnp.broadcast_to(getattr(batch, n)[request], getattr(batch, n).shape) for n in of_request}
        alone, mine = score(batch._replace(**copies)), np.asarray(batch.request_index) == request
        np.testing.assert_allclose(alone[mine], together[mine], rtol=1e-5, atol=1e-6)
        assert np.abs(alone[~mine] - together[~mine]).max() > 1e-5


def test_masked_events_are_not_read_and_order_matters_to_sequences_alone(setting, variant):
    batch, score = setting
    before = score(batch)
    junk = batch._replace(history_ids=jnp.where(batch.history_mask[..., None], batch.history_ids, 7))
    np.testing.assert_array_equal(score(junk), before)
    order = np.random.default_rng(0).permutation(batch.history_mask.shape[1])
    turned = batch._replace(history_ids=batch.history_ids[:, order], history_mask=batch.history_mask[:, order])
    if variant.ranker in ORDERED:
        assert np.abs(score(turned) - before).max() > 1e-3
    else:
        np.testing.assert_allclose(score(turned), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("history", ["full", "empty"])
def test_gradients_are_finite_and_reach_every_parameter(make_spec, make_batch, make_rows, variant, history):
    """With no event at all they are finite; what only a history moves then stays."""
    spec = make_spec()
    batch = with_ages(make_batch(spec, list_len=14), spec)
    if history == "empty":
        batch = padded(batch)._replace(history_mask=jnp.zeros_like(batch.history_mask))
    params, _, slopes = build(variant, spec)
    of_params, of_rows = slopes(params, make_rows(batch), batch)
    assert np.all(np.isfinite(of_rows)) and np.any(of_rows)
    for path, slope in jax.tree_util.tree_leaves_with_path(of_params):
        assert np.all(np.isfinite(slope)) and (history == "empty" or np.any(slope)), jax.tree_util.keystr(path)


@pytest.mark.parametrize("lacking", LACKING)
def test_any_part_of_the_features_may_be_missing(make_spec, make_batch, make_rows, variant, lacking):
    spec = make_spec(**LACKING[lacking])
    batch = make_batch(spec, list_len=14)
    params, score, _ = build(variant, spec)
    scores = score(params, make_rows(batch), batch)
    assert scores.shape == (24, len(spec.tasks)) and scores.dtype == jnp.float32
    assert np.all(np.isfinite(scores)) and np.std(scores) > 0


@on(
    [
        "hhsft-both-shared",
        "onetrans-shared",
        "rankmixer-sparse",
        "tokenmixer_large-dense",
        "transformer-joint",
        "transformer-shared",
    ]
)
def test_gradients_are_finite_where_a_request_is_nothing_but_masked_events(make_spec, make_batch, make_rows, variant):
    spec = make_spec(**LACKING["history_alone"])
    batch = make_batch(spec, list_len=14)
    batch = batch._replace(history_mask=jnp.zeros_like(batch.history_mask))
    params, _, slopes = build(variant, spec)
    assert all(np.all(np.isfinite(slope)) for slope in jax.tree.leaves(slopes(params, make_rows(batch), batch)))


def test_logits_start_near_the_given_bias(make_spec, make_batch, make_rows, variant):
    spec, config = make_spec(), variant.config("xs", **DEEPER.get(variant.ranker, {}))
    model = zoo.build(config, spec, rngs=nnx.Rngs(0), bias_init=(-2.0, -4.0))
    params, (_, score, _) = nnx.to_pure_dict(nnx.state(model, nnx.Param)), build(variant, spec)
    batches = [make_batch(spec, list_len=14, seed=seed) for seed in range(4)]
    scores = np.concatenate([score(params, make_rows(batch), batch) for batch in batches])
    np.testing.assert_allclose(np.mean(scores, axis=0), [-2.0, -4.0], atol=0.2)
    assert np.std(scores, axis=0).max() < 0.5
    with pytest.raises(ValueError, match="cannot start at 1 values"):
        zoo.build(config, spec, rngs=nnx.Rngs(0), bias_init=(-2.0,))


@on(["hhsft-none-shared", "hhsft-both-shared", "hstu-shared", "onetrans-shared", "transformer-shared"])
@pytest.mark.parametrize("no_history", [False, True])
def test_a_shared_context_asks_for_lists(make_spec, make_batch, make_rows, variant, no_history):
    spec = make_spec(no_history=no_history)
    batch = make_batch(spec)
    params, score, _ = build(variant, spec)
    with pytest.raises(InputError, match="list_len 0"):
        score(params, make_rows(batch), batch)


def test_modes_of_a_context_have_the_same_parameters(make_spec):
    for ranker in ("hhsft", "hstu", "transformer"):
        config = zoo.config_of(ranker, "xs", embed_dim=4)
        joint, shared = (dataclasses.replace(config, context=context) for context in CONTEXTS)
        trees = [nnx.to_pure_dict(nnx.state(zoo.build(c, make_spec(), rngs=nnx.Rngs(0)), nnx.Param)) for c in (joint, shared)]
        assert jax.tree.all(jax.tree.map(np.array_equal, *trees))
        assert zoo.RANKERS[ranker].num_params(joint, make_spec()) == zoo.RANKERS[ranker].num_params(shared, make_spec())


CLOSE = {"hiformer": (0.65, 1.15), "transformer": (0.9, 1.15)}
"""Least and most of a ranker's dense parameters over HHSFT's of the same size; (0.6, 1.6) where nothing else is said."""


def test_ladders_have_the_sizes_of_hhsft(make_spec, variant):
    """But full crosses, own maps a token and sparse mixers, whose sizes are others; dense mixers have them from "s" on."""
    spec, ranker = make_spec(), zoo.RANKERS[variant.ranker]
    theirs = {n: zoo.RANKERS["hhsft"].num_params(c, spec).dense for n, c in hhsft_ladder(embed_dim=8).items()}
    ours = {n: ranker.num_params(variant.config(n, embed_dim=8), spec).dense for n in ranker.ladder(embed_dim=8)}
    sizes = list(ours.values())
    assert list(ours) == list(theirs) and sizes == sorted(sizes)
    if {"full", "heterogeneous"} & set(variant.options.values()) or "num_experts" in variant.options:
        return
    mixer = variant.ranker in ("rankmixer", "tokenmixer_large")
    assert sizes[-1] / sizes[0] >= (50 if mixer or variant.options.get("interaction") == "dot" else 100)
    least, most = CLOSE.get(variant.ranker, (0.6, 1.6))
    for name in list(ours)[2 if mixer else 0 :]:
        assert least < ours[name] / theirs[name] < most, name


@on(
    [
        *("dcn-low_rank-stacked", "dcn-mixture-stacked", "din", "dlrm-none", "hhsft-both-joint", "hiformer-composite"),
        *("hiformer-heterogeneous", "hstu-shared", "onetrans-shared", "rankmixer-dense", "rankmixer-sparse"),
        *("tokenmixer_large-dense", "tokenmixer_large-sparse", "transformer-joint", "transformer-shared", "wukong"),
    ]
)
def test_one_rate_moves_every_size_alike(make_spec, make_batch, make_rows, variant):
    """Over the first steps of a sign descent (Adam without its averages); without the width rule HHSFT moves 19-fold."""
    spec = make_spec()
    batch = make_batch(spec, num_candidates=96, list_len=40)
    rows, moved = make_rows(batch, 8), []
    for size in ("xs", "xl"):
        model = zoo.build(variant.config(size, embed_dim=8), spec, rngs=nnx.Rngs(0))
        graphdef, params, rest = nnx.split(model, nnx.Param, ...)

        def step(params, graphdef=graphdef, rest=rest):
            def loss(params):
                scores = nnx.merge(graphdef, params, rest)(rows, batch)
                return bce(scores, batch.labels, batch.weights), scores

            slopes, scores = jax.grad(loss, has_aux=True)(params)
            return jax.tree.map(lambda p, g: p - 0.003 * jnp.sign(g), params, slopes), scores

        step, trail = jax.jit(step, compiler_options=FAST), []
        for _ in range(9):
            params, scores = step(params)
            trail.append(scores)
        moved.append(float(jnp.sqrt(jnp.mean((trail[-1] - trail[0]) ** 2))))
    mixer = variant.ranker in ("rankmixer", "tokenmixer_large")
    assert max(moved) / min(moved) < (1.5 if mixer else 2.5), moved
