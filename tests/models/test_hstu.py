"""HSTU against loops over its equations, row-wise against list-wise, its causality, bias tables and published sizes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from unisc.data.features import GROUPS
from unisc.errors import InputError
from unisc.models import hhsft, hstu
from unisc.models.hstu import HSTU, HSTUConfig, Prefix, Shape, gap_ids, pointwise
from unisc.models.inputs import group_inputs
from unisc.models.ladder import hhsft_ladder
from unisc.nn.slots import Slots
from unisc.objectives.ranking import bce

CONFIG = HSTUConfig(embed_dim=4, dim=8, num_layers=3, num_heads=2, qk_dim=3, v_dim=4, age_field="h_age")
SPECS = [
    {},
    {"no_history": True},
    {"without": ("user", "query", "domain")},
    {"no_history": True, "without": ("user", "domain")},
]


@functools.cache
def build(spec, context="joint", seed=0):
    """Return (dense parameters with bias tables that matter, jitted score) of a small model."""
    config = HSTUConfig(**{n: getattr(CONFIG, n) for n in CONFIG.__slots__ if n != "context"}, context=context)
    model = HSTU(config, spec, rngs=nnx.Rngs(seed))
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        for table in (layer.distance, layer.time):
            if table is not None:
                table[...] = jnp.asarray(rng.normal(size=table.shape), jnp.float32)
    graphdef, params = nnx.split(model, nnx.Param)
    score = jax.jit(lambda dense, rows, batch: nnx.merge(graphdef, nnx.State(dense))(rows, batch))
    return nnx.to_pure_dict(params), score


def with_ages(batch, spec):
    """Make the last history field an age: ids of its own table, growing from the most recent event on."""
    first = spec.table_offsets()["age"]
    unique = jnp.concatenate([batch.unique_rows[:30], first + jnp.arange(20, dtype=jnp.int32)])
    ages = np.sort(np.random.default_rng(1).integers(0, 20, batch.history_ids.shape[:2]), axis=1)
    ids = batch.history_ids.at[:, :, -1].set(jnp.asarray(30 + ages, jnp.int32))
    return batch._replace(unique_rows=unique, history_ids=ids)


@pytest.fixture
def setting(make_spec, make_batch, make_rows):
    """Return the full features, a batch with lists and ages, and its rows."""
    spec = make_spec()
    batch = with_ages(make_batch(spec, list_len=14), spec)
    return spec, batch, make_rows(batch)


def weights(linear):
    return np.asarray(linear.kernel[...]) * linear.multiplier


def norm(x):
    x = x - x.mean()
    return x / np.sqrt(np.mean(x * x) + 1e-6)


def silu(x):
    return x / (1 + np.exp(-x))


def by_loops(model, spec, rows, batch, b):
    """Score candidate b token by token, over the tokens that are really there."""
    c, shape = model.config, model.shape
    r = int(batch.request_index[b])
    rows, ids = np.asarray(rows), batch.history_ids[r]
    tokens = []  # (vector, place in the padded sequence, age in seconds or None, is context)
    for mlp, group in zip(model.context, [g for g in GROUPS if g in ("user", "query", "domain")], strict=True):
        x = np.asarray(group_inputs(spec, group, jnp.asarray(rows), batch).request[r])
        up = x @ weights(mlp.up) + np.asarray(mlp.up.bias[...])
        tokens.append((np.maximum(up, 0.1 * up) @ weights(mlp.down), len(tokens), None, True))
    for s in reversed(range(spec.history_len)):
        if batch.history_mask[r, s]:
            x = np.concatenate([rows[i] for i in ids[s]]) @ weights(model.history) + np.asarray(model.history.bias[...])
            bucket = int(batch.unique_rows[ids[s, -1]]) - spec.table_offsets()["age"]
            tokens.append((x, shape.before - 1 - s, 2 ** (bucket - 1) - 1 if bucket else None, False))
    own = np.concatenate([*(rows[i] for i in batch.candidate_ids[b]), batch.candidate_numeric[b]])
    mlp = model.candidate
    up = own @ np.asarray(mlp.up.candidate[...]) * mlp.up.multiplier + np.asarray(mlp.up.bias[...])
    token = np.maximum(up, 0.1 * up) @ weights(mlp.down) + np.asarray(mlp.down.bias[...])
    tokens.append((token, shape.before, 0, False))

    x = [t[0] for t in tokens]
    for layer in model.layers:
        w, wide, narrow = weights(layer.uqvk), c.num_heads * c.v_dim, c.num_heads * c.qk_dim
        parts = [np.split(silu(norm(v) @ w), np.cumsum([wide, narrow, wide])) for v in x]
        new = []
        for i, (u, q, _, _) in enumerate(parts):
            seen = np.zeros((c.num_heads, c.v_dim))
            for j, (_, _, v, k) in enumerate(parts):
                if not (j <= i or (tokens[i][3] and tokens[j][3])):
                    continue
                bias = float(layer.distance[...][abs(tokens[i][1] - tokens[j][1])])
                times = tokens[i][2], tokens[j][2]
                if not tokens[i][3] and not tokens[j][3]:
                    known = None not in times
                    bias += float(layer.time[...][1 + int(np.log2(times[1] - times[0] + 1)) if known else 0])
                for n in range(c.num_heads):
                    part = slice(n * c.qk_dim, (n + 1) * c.qk_dim)
                    score = q[part] @ k[part] * np.sqrt(8) / c.qk_dim + bias
                    seen[n] += silu(score) / shape.length * v[n * c.v_dim : (n + 1) * c.v_dim]
            new.append(x[i] + (norm(seen.reshape(-1)) * u) @ weights(layer.out) + np.asarray(layer.out.bias[...]))
        x = new
    return norm(x[-1]) @ weights(model.head) + np.asarray(model.head.bias[...])


@pytest.mark.parametrize("context", ["joint", "shared"])
def test_scores_equal_loops_over_the_equations(setting, context):
    spec, batch, rows = setting
    dense, score = build(spec, context)
    model = HSTU(CONFIG, spec, rngs=nnx.Rngs(0))
    nnx.update(model, nnx.State(dense))
    scores = score(dense, rows, batch)
    for b in (0, 7, 23):
        np.testing.assert_allclose(scores[b], by_loops(model, spec, rows, batch, b), rtol=2e-4, atol=2e-5)


def test_row_wise_and_list_wise_give_equal_scores_and_gradients(setting):
    spec, batch, rows = setting
    dense, _ = build(spec)
    found = []
    for context in ("joint", "shared"):
        _, score = build(spec, context)
        found.append((score(dense, rows, batch), *grads_of(score, dense, rows, batch)))
    for joint, shared in zip(jax.tree.leaves(found[0]), jax.tree.leaves(found[1]), strict=True):
        np.testing.assert_allclose(shared, joint, rtol=2e-4, atol=1e-6)


def grads_of(score, dense, rows, batch):
    def loss(dense, rows):
        return bce(score(dense, rows, batch), batch.labels, batch.weights)

    return jax.jit(jax.grad(loss, argnums=(0, 1)))(dense, rows)


@pytest.mark.parametrize("context", ["joint", "shared"])
@pytest.mark.parametrize("missing", SPECS)
def test_counts_equal_the_tree_and_the_trace(make_spec, make_batch, make_rows, replaced, num_matmul_flops, missing, context):
    spec = make_spec(**missing)
    batch = make_batch(spec)
    batch = batch._replace(lists=jnp.arange(24, dtype=jnp.int32).reshape(6, 4))  # no slot is empty
    for config in (replaced(CONFIG, context=context), replaced(CONFIG, context=context, num_layers=1, age_field="")):
        model = HSTU(config, spec, rngs=nnx.Rngs(0))
        size = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
        count = hstu.num_params(config, spec)
        assert count.dense == count.active == size
        assert count.embedding == spec.num_rows * 4
        traced = num_matmul_flops(jax.make_jaxpr(model.__call__)(make_rows(batch), batch).jaxpr)
        flops = hstu.flops_per_example(config, spec)
        assert traced == flops.forward(num_candidates=24, num_requests=6)
        assert flops.candidate == flops.candidate_active


@pytest.mark.parametrize("missing", SPECS)
def test_any_part_of_the_features_may_be_missing(make_spec, make_batch, make_rows, missing):
    spec = make_spec(**missing, domains=("search",), tasks=("click",))
    batch = make_batch(spec, list_len=14)
    scores = [build(spec, context)[1](build(spec)[0], make_rows(batch), batch) for context in ("joint", "shared")]
    assert scores[0].shape == (24, 1) and scores[0].dtype == jnp.float32
    assert np.all(np.isfinite(scores[0])) and np.std(scores[0]) > 0
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-4, atol=1e-5)


def layer_of(spec, seed=0):
    """Return a unit, random tokens before a candidate, and the slots of two requests with two candidates each."""
    shape = Shape.of(CONFIG, spec)
    layer = hstu.HSTULayer(CONFIG, shape, last=False, rngs=nnx.Rngs(seed))
    rng = np.random.default_rng(seed)
    ages = jax.nn.one_hot(jnp.asarray(rng.integers(0, shape.num_ages, (2, shape.history_len))), shape.num_ages)
    tokens = jnp.asarray(rng.normal(size=(2, shape.before, CONFIG.dim)), jnp.float32)
    prefix = Prefix(tokens, jnp.ones((2, shape.before), bool), ages)
    slots = Slots(jnp.asarray([0, 0, 1, 1], jnp.int32), jnp.asarray([[0, 1], [2, 3]], jnp.int32))
    return layer, prefix, jnp.asarray(rng.normal(size=(4, CONFIG.dim)), jnp.float32), slots


def test_no_event_sees_a_later_one_and_the_context_sees_no_event(make_spec):
    layer, prefix, candidates, slots = layer_of(make_spec())
    slope = jax.jit(jax.jacobian(lambda x: layer(prefix._replace(tokens=x), candidates, slots)[0]))(prefix.tokens)
    reach = np.abs(slope).max(axis=(0, 2, 3, 5))  # by token that sees, token seen
    num_context, before = layer.shape.num_context, layer.shape.before
    assert (num_context, before) == (3, 9)
    for i in range(before):
        for j in range(before):
            allowed = j <= i or max(i, j) < num_context
            assert (reach[i, j] > 0) == allowed, (i, j)


def test_a_candidate_sees_its_own_context_and_no_other_candidate(make_spec):
    layer, prefix, candidates, slots = layer_of(make_spec())
    to_context = jax.jit(jax.jacobian(lambda x: layer(prefix._replace(tokens=x), candidates, slots)[1]))(prefix.tokens)
    reach = np.abs(to_context).max(axis=(1, 4))  # candidate, request, token
    assert np.all(reach[:2, 0] > 0) and np.all(reach[2:, 1] > 0) and not np.any(reach[:2, 1]) and not np.any(reach[2:, 0])
    to_candidates = jax.jit(jax.jacobian(lambda x: layer(prefix, x, slots)[1]))(candidates)
    assert np.array_equal(np.abs(to_candidates).max(axis=(1, 3)) > 0, np.eye(4, dtype=bool))


def test_other_candidates_of_a_request_do_not_change_a_score(setting):
    spec, batch, rows = setting
    dense, score = build(spec, "shared")
    kept = np.arange(24) % 2 == 0
    changed = batch._replace(
        candidate_ids=jnp.where(kept[:, None], batch.candidate_ids, 3),
        candidate_numeric=jnp.where(kept[:, None], batch.candidate_numeric, 9.0),
    )
    before, after = score(dense, rows, batch), score(dense, rows, changed)
    np.testing.assert_array_equal(before[kept], after[kept])
    assert np.all(np.any(before[~kept] != after[~kept], axis=1))


def test_weights_are_not_normalised_and_halve_with_twice_the_length():
    scores = jnp.asarray([[-1.0, 0.0, 2.0], [3.0, 3.0, 3.0]])
    mask = jnp.asarray([[True, True, False], [True, True, True]])
    once, twice = pointwise(scores, mask, 3), pointwise(scores, mask, 6)
    np.testing.assert_array_equal(once, 2 * twice)
    np.testing.assert_allclose(once, np.where(mask, silu(np.asarray(scores)), 0) / 3, rtol=1e-6)
    assert once[1].sum() > 2 and once[0, 0] < 0


def test_times_between_events_fall_into_octaves_of_seconds():
    ids = gap_ids(20)
    assert ids.shape == (20, 20) and ids.max() == 19
    np.testing.assert_array_equal(ids[1], np.arange(20))  # from the request on: the bucket of the age itself
    assert not np.any(ids[0]) and not np.any(ids[:, 0])
    np.testing.assert_array_equal(np.diag(ids)[1:], 1)
    assert ids[5, 8] == 1 + int(np.log2(2**7 - 2**4 + 1)) == 7
    assert ids[7, 8] == 1 + int(np.log2(2**7 - 2**6 + 1)) == 7


def test_the_time_table_is_read_at_the_age_and_is_absent_without_one(make_spec, setting):
    spec, batch, rows = setting
    dense, score = build(spec)
    older = batch._replace(history_ids=batch.history_ids.at[:, :, -1].set(49))
    assert np.abs(score(dense, rows, batch) - score(dense, rows, older)).max() > 1e-3
    assert Shape.of(CONFIG, spec) == (3, 6, 20)
    assert Shape.of(HSTUConfig(embed_dim=4, dim=8, num_layers=1, num_heads=2, qk_dim=3, v_dim=4), spec) == (3, 6, 0)
    assert Shape.of(CONFIG, make_spec(no_history=True)) == (3, 0, 0)


def test_ages_are_found_where_embeddings_are_sums_of_rows(setting):
    """There, ids name pairs of rows; the second of an age's pair is no row."""
    spec, batch, rows = setting
    dense, score = build(spec)
    order = np.random.default_rng(0).permutation(50)
    parts = np.stack([np.argsort(order), np.full(50, 50)], axis=1)
    paired = batch._replace(unique_rows=batch.unique_rows[order], row_parts=jnp.asarray(parts, jnp.int32))
    np.testing.assert_array_equal(score(dense, rows, paired), score(dense, rows, batch))


def test_masked_events_are_not_read_and_the_order_of_others_is(setting):
    spec, batch, rows = setting
    dense, score = build(spec)
    junk = batch._replace(history_ids=jnp.where(batch.history_mask[..., None], batch.history_ids, 7))
    np.testing.assert_array_equal(score(dense, rows, junk), score(dense, rows, batch))
    turned = batch._replace(history_ids=batch.history_ids[:, ::-1], history_mask=batch.history_mask[:, ::-1])
    assert np.abs(score(dense, rows, turned) - score(dense, rows, batch)).max() > 1e-3


@pytest.mark.parametrize("context", ["joint", "shared"])
@pytest.mark.parametrize("empty", [True, False])
def test_gradients_are_finite_and_reach_every_parameter(setting, context, empty):
    spec, batch, rows = setting
    if empty:
        batch = batch._replace(history_mask=jnp.zeros_like(batch.history_mask))
    dense, score = build(spec, context)
    grads = grads_of(score, dense, rows, batch)
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(grads))
    for path, leaf in jax.tree_util.tree_flatten_with_path(grads[0])[0]:
        assert empty or np.any(leaf), jax.tree_util.keystr(path)


def test_padding_candidates_do_not_change_other_scores(setting):
    spec, batch, rows = setting
    dense, score = build(spec, "shared")
    padded = batch._replace(
        request_index=jnp.where(jnp.arange(24) < 20, batch.request_index, 0),
        lists=jnp.where(batch.lists < 20, batch.lists, 24),
    )
    before, after = score(dense, rows, batch), score(dense, rows, padded)
    np.testing.assert_allclose(after[:20], before[:20], rtol=1e-5, atol=1e-6)
    assert np.all(np.isfinite(after))


def test_shared_context_asks_for_lists(setting):
    spec, batch, rows = setting
    dense, score = build(spec, "shared")
    with pytest.raises(InputError, match="list_len 0"):
        score(dense, rows, batch._replace(lists=batch.lists[:, :0]))


def test_logits_start_near_the_given_bias(setting, replaced):
    spec, batch, rows = setting
    model = HSTU(replaced(CONFIG, context="shared"), spec, rngs=nnx.Rngs(0), bias_init=(-2.0, -4.0))
    scores = jax.jit(lambda rows: model(rows, batch))(rows)
    np.testing.assert_allclose(np.mean(scores, axis=0), [-2.0, -4.0], atol=0.2)
    assert np.std(scores, axis=0).max() < 0.5
    with pytest.raises(ValueError, match="cannot start at 1 values"):
        HSTU(CONFIG, spec, rngs=nnx.Rngs(0), bias_init=(-2.0,))


@pytest.mark.parametrize("context", ["joint", "shared"])
def test_it_learns_which_items_the_history_holds(make_spec, make_batch, make_rows, context):
    """A candidate is clicked if and only if the most recent event is of its category."""
    spec = make_spec(tasks=("click",))
    batch = make_batch(spec, num_candidates=192, num_requests=48, list_len=20)
    batch = batch._replace(history_mask=jnp.ones_like(batch.history_mask))
    last = np.random.default_rng(0).integers(0, 4, 48)
    own = np.random.default_rng(1).integers(0, 4, 192)
    batch = batch._replace(
        history_ids=batch.history_ids.at[:, 0, 1].set(jnp.asarray(last, jnp.int32)),
        candidate_ids=batch.candidate_ids.at[:, 1].set(jnp.asarray(own, jnp.int32)),
        labels=jnp.asarray(own == last[np.asarray(batch.request_index)], jnp.float32)[:, None],
    )
    dense, score = build(spec, context)
    params, optimizer = (dense, make_rows(batch)), optax.adam(3e-3)

    @jax.jit
    def step(params, state):
        loss, grads = jax.value_and_grad(lambda p: bce(score(*p, batch), batch.labels, batch.weights))(params)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, loss

    state, losses = optimizer.init(params), []
    for _ in range(80):
        params, state, loss = step(params, state)
        losses.append(float(loss))
    assert losses[0] > 0.55 and losses[-1] < 0.25


def test_published_sizes(make_spec):
    """Of "ml-1m-large": W (50, 200), W_o (50, 50) and b (50,) in each of 8 blocks; of MTGR: stated GFLOP within 0.1 %."""
    large, spec = hstu.PUBLISHED["ml-1m-large"], make_spec()
    model = nnx.eval_shape(lambda: HSTU(large, spec, rngs=nnx.Rngs(0)))
    shapes = [(m.uqvk.kernel.shape, m.out.kernel.shape, m.out.bias.shape) for m in model.layers]
    assert shapes == [((50, 200), (50, 50), (50,))] * 8 and 8 * hstu.unit_params(large) == 100_400
    assert hstu.num_params(large, spec).dense == sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    books = hstu.PUBLISHED["amzn-books-large"]
    assert (books.dim, sum(books.widths)) == (64, 256) and books.num_layers * hstu.unit_params(books) == 328_704
    for name, stated in (("mtgr-small", 5.47), ("mtgr-medium", 18.59), ("mtgr-large", 55.76)):
        config = hstu.PUBLISHED[name]
        linear, attention = hstu.unit_flops(config, 1000)
        multiply_adds = config.num_layers * (linear + attention / 2) / 2
        assert multiply_adds / 1e9 == pytest.approx(stated, rel=1e-3), name


def test_the_ladder_spans_the_sizes_of_hhsft(make_spec):
    spec = make_spec()
    ours = [hstu.num_params(c, spec).dense for c in hstu.ladder(embed_dim=8).values()]
    base = [hhsft.num_params(c, spec).dense for c in hhsft_ladder(embed_dim=8).values()]
    assert list(hstu.ladder(embed_dim=8)) == list(hhsft_ladder(embed_dim=8)) and ours[-1] / ours[0] >= 100
    assert all(0.6 < a / b < 1.6 for a, b in zip(ours, base, strict=True))
    assert {c.context for c in hstu.ladder(embed_dim=8, context="shared").values()} == {"shared"}


def test_one_rate_moves_every_size_alike(make_spec, make_batch, make_rows):
    """Over the first steps of a sign descent (Adam without its averages)."""
    spec = make_spec()
    batch = make_batch(spec, num_candidates=96, list_len=40)
    rows, moved = make_rows(batch, 8), []
    for name in ("xs", "xl"):
        config = hstu.ladder(embed_dim=8, context="shared")[name]
        graphdef, params = nnx.split(HSTU(config, spec, rngs=nnx.Rngs(0)))

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
        moved.append(float(jnp.sqrt(jnp.mean((trail[-1] - trail[0]) ** 2))))
    assert 0.4 < moved[0] / moved[1] < 2.5, moved


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dim": 0}, "dim: 0 is not a whole number of at least 1"),
        ({"qk_dim": 2.5}, "qk_dim: 2.5 is not a whole number of at least 1"),
        ({"num_heads": True}, "num_heads: True is not a whole number of at least 1"),
        ({"context": "both"}, "context: unknown 'both'; give one of joint, shared"),
    ],
)
def test_a_wrong_configuration_is_named_in_one_line(replaced, wrong, message):
    with pytest.raises(InputError) as caught:
        replaced(CONFIG, **wrong)
    assert message in str(caught.value) and "\n" not in str(caught.value)
