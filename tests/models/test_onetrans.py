"""OneTrans against a run of one plain causal sequence a candidate, its pyramid, its cache across candidates, and its sizes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from unisc.errors import InputError
from unisc.models import hhsft, onetrans
from unisc.models.ladder import hhsft_ladder
from unisc.models.onetrans import OneTrans, OneTransConfig, OneTransLayer, Tokens
from unisc.nn.slots import Slots
from unisc.objectives.ranking import bce

CONFIG = OneTransConfig(embed_dim=4, dim=8, num_layers=3, num_heads=2, num_tokens=4, num_request_tokens=2)
SPECS = [
    {},
    {"no_history": True},
    {"without": ("user", "query", "domain")},
    {"no_history": True, "without": ("user", "domain")},
]
MODES = [("joint", 0), ("shared", 0), ("shared", 2)]


def config_of(context="joint", num_request_tokens=2, pyramid=True):
    changed = {"context": context, "num_request_tokens": num_request_tokens, "pyramid": pyramid}
    return OneTransConfig(**{n: getattr(CONFIG, n) for n in CONFIG.__slots__ if n not in changed}, **changed)


@functools.cache
def build(spec, context="joint", num_request_tokens=2, pyramid=True):
    """Return (dense parameters with a table by recency that matters, jitted score) of a small model."""
    model = OneTrans(config_of(context, num_request_tokens, pyramid), spec, rngs=nnx.Rngs(0))
    if model.recency is not None:
        model.recency[...] = jnp.asarray(np.random.default_rng(0).normal(size=model.recency.shape), jnp.float32)
    graphdef, params = nnx.split(model, nnx.Param)
    score = jax.jit(lambda dense, rows, batch: nnx.merge(graphdef, nnx.State(dense))(rows, batch))
    return nnx.to_pure_dict(params), score


@pytest.fixture
def setting(make_spec, make_batch, make_rows):
    """Return the full features, a batch with lists, and its rows."""
    spec = make_spec()
    batch = make_batch(spec, list_len=14)
    return spec, batch, make_rows(batch)


def norm(x):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + 1e-6)


def leaky(x):
    return np.where(x > 0, x, 0.1 * x)


def weights(linear, kind=None):
    kernel = np.asarray(linear.kernel[...]) * linear.multiplier
    return kernel if kind is None else kernel[kind]


def joint_mlp(mlp, request, candidate):
    up = np.asarray(mlp.up.bias[...])
    for kernel, x in ((mlp.up.request, request), (mlp.up.candidate, candidate)):
        up = up + (0 if kernel is None else x @ np.asarray(kernel[...]) * mlp.up.multiplier)
    return leaky(up) @ weights(mlp.down) + np.asarray(mlp.down.bias[...])


def alone(model, spec, rows, batch, b):
    """Score candidate b by one causal sequence of its own, over the tokens that are really there."""
    c, rows, r = model.config, np.asarray(rows), int(batch.request_index[b])
    tokens, owners, places = [], [], []  # vectors, (stream, type) whose parameters they use, places of S tokens
    for s in reversed(range(spec.history_len if model.event is not None else 0)):
        if batch.history_mask[r, s]:
            x = np.concatenate([rows[i] for i in batch.history_ids[r, s]])
            up = leaky(x @ weights(model.event.up) + np.asarray(model.event.up.bias[...]))
            tokens.append(up @ weights(model.event.down) + np.asarray(model.recency[...][s]))
            owners.append(("history", 0))
            places.append(s)
    request = np.concatenate([*(rows[i] for i in batch.request_ids[r]), batch.request_numeric[r]])
    own = np.concatenate([*(rows[i] for i in batch.candidate_ids[b]), batch.candidate_numeric[b]])
    if model.request is not None:
        made = joint_mlp(model.request, request, None).reshape(-1, c.dim)
        tokens += list(made)
        owners += [("request", i) for i in range(len(made))]
    made = joint_mlp(model.own, request, own).reshape(-1, c.dim)
    tokens += list(made)
    owners += [("own", i) for i in range(len(made))]

    for depth, layer in enumerate(model.layers):
        keep = spec.history_len * (c.num_layers - 1 - depth) / c.num_layers if c.pyramid else spec.history_len
        q, k, v, new, kept = [], [], [], [], []
        for x, (stream, kind) in zip(tokens, owners, strict=True):
            part = getattr(layer, stream)
            both = norm(x) @ weights(part.keys_values, kind)
            k.append(both[: c.dim])
            v.append(both[c.dim :])
            q.append(None if part.queries is None else norm(x) @ weights(part.queries, kind))
        for i, (x, (stream, kind)) in enumerate(zip(tokens, owners, strict=True)):
            if q[i] is None or (stream == "history" and places[i] >= keep):
                continue
            heads, wide = [], c.dim // c.num_heads
            for n in range(c.num_heads):
                part = slice(n * wide, (n + 1) * wide)
                scores = np.array([q[i][part] @ k[j][part] for j in range(i + 1)]) * np.sqrt(8) / wide
                odds = np.exp(scores - scores.max())
                heads.append(sum(o * v[j][part] for j, o in enumerate(odds)) / odds.sum())
            stream_of = getattr(layer, stream)
            x = x + np.concatenate(heads) @ weights(stream_of.out, kind)
            up = norm(x) @ weights(stream_of.ffn.up, kind) + np.asarray(stream_of.ffn.up.bias[...][kind, 0])
            new.append(x + leaky(up) @ weights(stream_of.ffn.down, kind))
            kept.append(i)
        places = [places[i] for i in kept if owners[i][0] == "history"]
        tokens, owners = new, [owners[i] for i in kept]
    assert all(stream == "own" for stream, _ in owners)
    return norm(np.stack(tokens)).reshape(-1) @ weights(model.head) + np.asarray(model.head.bias[...])


@pytest.mark.parametrize("pyramid", [True, False])
@pytest.mark.parametrize(("context", "num_request_tokens"), MODES)
def test_scores_equal_a_naive_run_of_each_candidate(setting, context, num_request_tokens, pyramid):
    """Which is the plain causal stack where no pyramid drops a query."""
    spec, batch, rows = setting
    dense, score = build(spec, context, num_request_tokens, pyramid)
    model = OneTrans(config_of(context, num_request_tokens, pyramid), spec, rngs=nnx.Rngs(0))
    nnx.update(model, nnx.State(dense))
    scores = score(dense, rows, batch)
    for b in (0, 7, 23):
        np.testing.assert_allclose(scores[b], alone(model, spec, rows, batch, b), rtol=2e-4, atol=2e-5)


def grads_of(score, dense, rows, batch):
    def loss(dense, rows):
        return bce(score(dense, rows, batch), batch.labels, batch.weights)

    return jax.jit(jax.grad(loss, argnums=(0, 1)))(dense, rows)


def test_keys_and_values_kept_for_a_request_change_neither_scores_nor_gradients(setting):
    spec, batch, rows = setting
    dense, row_wise = build(spec, "joint", 0)
    _, cached = build(spec, "shared", 0)
    found = [(score(dense, rows, batch), *grads_of(score, dense, rows, batch)) for score in (row_wise, cached)]
    for joint, shared in zip(jax.tree.leaves(found[0]), jax.tree.leaves(found[1]), strict=True):
        np.testing.assert_allclose(shared, joint, rtol=2e-4, atol=1e-6)


def test_a_list_scores_as_its_candidates_do_one_request_each(setting):
    """Request tokens included, which `joint` does not have."""
    spec, batch, rows = setting
    dense, score = build(spec, "shared", 2)
    of_request = ("request_ids", "request_numeric", "history_ids", "history_mask")
    split = batch._replace(
        **{name: getattr(batch, name)[batch.request_index] for name in of_request},
        request_index=jnp.arange(24, dtype=jnp.int32),
        lists=jnp.arange(24, dtype=jnp.int32)[:, None],
    )
    np.testing.assert_allclose(score(dense, rows, split), score(dense, rows, batch), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("num_request_tokens", [0, 2])
def test_other_candidates_of_a_request_do_not_change_a_score(setting, num_request_tokens):
    spec, batch, rows = setting
    dense, score = build(spec, "shared", num_request_tokens)
    kept = np.arange(24) % 2 == 0
    changed = batch._replace(
        candidate_ids=jnp.where(kept[:, None], batch.candidate_ids, 3),
        candidate_numeric=jnp.where(kept[:, None], batch.candidate_numeric, 9.0),
    )
    before, after = score(dense, rows, batch), score(dense, rows, changed)
    np.testing.assert_array_equal(before[kept], after[kept])
    assert np.all(np.any(before[~kept] != after[~kept], axis=1))


def test_what_each_token_sees(make_spec):
    """Of tokens [4 events ; 2 of the request ; 2 of a candidate] in a layer that hands on two events."""
    layer = OneTransLayer(config_of("shared", 2), enter=4, keep=2, last=False, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    x = Tokens(*(jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((1, 4, 8), (2, 1, 8), (2, 2, 8))))
    slots = Slots(jnp.zeros(2, jnp.int32), jnp.asarray([[0, 1]], jnp.int32))
    mask = jnp.asarray([[True, False, True, True]])

    def line(x):  # the events, the request's tokens, and both candidates' as one row of tokens
        return jnp.concatenate([x.history[0], x.request[:, 0], x.own[:, 0], x.own[:, 1]])

    def back(y):
        return Tokens(y[None, :4], y[4:6, None], jnp.stack([y[6:8], y[8:10]], axis=1))

    reach = np.abs(jax.jit(jax.jacobian(lambda y: line(layer(back(y), mask, slots))))(line(x))).max(axis=(1, 3)) > 0
    seen = np.array([[0, 2], [0, 2, 3], [0, 2, 3, 4], [0, 2, 3, 4, 5]], object)
    own = [[0, 2, 3, 4, 5, 6], [0, 2, 3, 4, 5, 6, 7], [0, 2, 3, 4, 5, 8], [0, 2, 3, 4, 5, 8, 9]]
    assert [list(np.flatnonzero(row)) for row in reach] == [list(row) for row in seen] + own


@pytest.mark.parametrize("context", ["joint", "shared"])
@pytest.mark.parametrize("missing", SPECS)
def test_counts_equal_the_tree_and_the_trace(make_spec, make_batch, make_rows, replaced, num_matmul_flops, missing, context):
    spec = make_spec(**missing)
    batch = make_batch(spec)
    batch = batch._replace(lists=jnp.arange(24, dtype=jnp.int32).reshape(6, 4))  # no slot is empty
    base = config_of(context)
    for config in (
        base,
        replaced(base, num_request_tokens=0, num_layers=1),
        replaced(base, pyramid=False, ffn_multiplier=3),
    ):
        model = OneTrans(config, spec, rngs=nnx.Rngs(0))
        size = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
        count = onetrans.num_params(config, spec)
        assert count.dense == count.active == size
        assert count.embedding == spec.num_rows * 4
        traced = num_matmul_flops(jax.make_jaxpr(model.__call__)(make_rows(batch), batch).jaxpr)
        flops = onetrans.flops_per_example(config, spec)
        assert traced == flops.forward(num_candidates=24, num_requests=6)
        assert flops.candidate == flops.candidate_active


@pytest.mark.parametrize("missing", SPECS)
@pytest.mark.parametrize("context", ["joint", "shared"])
def test_any_part_of_the_features_may_be_missing(make_spec, make_batch, make_rows, missing, context):
    spec = make_spec(**missing, domains=("search",), tasks=("click",))
    batch = make_batch(spec, list_len=14)
    dense, score = build(spec, context)
    scores = score(dense, make_rows(batch), batch)
    assert scores.shape == (24, 1) and scores.dtype == jnp.float32
    assert np.all(np.isfinite(scores)) and np.std(scores) > 0


def test_the_pyramid_shrinks_linearly_to_the_ns_tokens(replaced):
    deep = replaced(CONFIG, num_layers=6)
    assert deep.lengths(1178) == [1178, 982, 786, 589, 393, 197, 0]
    assert deep.lengths(2) == [2, 2, 2, 1, 1, 1, 0] and deep.lengths(0) == [0] * 7
    assert replaced(deep, pyramid=False).lengths(5) == [5] * 6 + [0]


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


def test_logits_start_near_the_given_bias(setting):
    spec, batch, rows = setting
    model = OneTrans(config_of("shared"), spec, rngs=nnx.Rngs(0), bias_init=(-2.0, -4.0))
    scores = jax.jit(lambda rows: model(rows, batch))(rows)
    np.testing.assert_allclose(np.mean(scores, axis=0), [-2.0, -4.0], atol=0.2)
    assert np.std(scores, axis=0).max() < 0.5
    with pytest.raises(ValueError, match="cannot start at 1 values"):
        OneTrans(CONFIG, spec, rngs=nnx.Rngs(0), bias_init=(-2.0,))


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
    """Within what is stated: 91 M, 67 M of them the NS tokens' own parameters; 330 M. The rest is in tokenisers, not stated."""
    small, large = (onetrans.PUBLISHED[name] for name in ("onetrans-s", "onetrans-l"))
    assert (small.num_layers, small.dim, small.num_tokens) == (6, 256, 12)
    assert (large.num_layers, large.dim, large.num_tokens) == (8, 384, 16)
    own = small.num_layers * small.num_tokens * onetrans.token_params(small)
    assert own == 66_152_448 and own == pytest.approx(91e6 - 24e6, rel=0.02)
    stacks = [c.num_layers * (c.num_tokens + 1) * onetrans.token_params(c) for c in (small, large)]
    assert stacks == [71_665_152, 281_017_344]
    model = nnx.eval_shape(lambda: OneTrans(small, make_spec(), rngs=nnx.Rngs(0)))
    size = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert onetrans.num_params(small, make_spec()).dense == size
    assert all(0.75 < stack / stated < 0.9 for stack, stated in zip(stacks, (91e6, 330e6), strict=True))


def test_the_ladder_spans_the_sizes_of_hhsft(make_spec):
    spec = make_spec()
    base = [hhsft.num_params(c, spec).dense for c in hhsft_ladder(embed_dim=8).values()]
    for context in ("joint", "shared"):
        sizes = onetrans.ladder(embed_dim=8, context=context)
        ours = [onetrans.num_params(c, spec).dense for c in sizes.values()]
        assert list(sizes) == list(hhsft_ladder(embed_dim=8)) and ours[-1] / ours[0] >= 100
        assert all(0.6 < a / b < 1.6 for a, b in zip(ours, base, strict=True))


def test_one_rate_moves_every_size_alike(make_spec, make_batch, make_rows):
    """Over the first steps of a sign descent (Adam without its averages)."""
    spec = make_spec()
    batch = make_batch(spec, num_candidates=96, list_len=40)
    rows, moved = make_rows(batch, 8), []
    for name in ("xs", "xl"):
        config = onetrans.ladder(embed_dim=8, context="shared")[name]
        graphdef, params = nnx.split(OneTrans(config, spec, rngs=nnx.Rngs(0)))

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
        ({"dim": 9}, "dim: 9 does not divide into num_heads=2"),
        ({"num_layers": 0}, "num_layers: 0 is not a whole number of at least 1"),
        ({"num_request_tokens": -1}, "num_request_tokens: -1 is not a whole number of at least 0"),
        ({"num_request_tokens": 4}, "num_request_tokens: 4 leaves a candidate none of num_tokens=4"),
        ({"pyramid": 1}, "pyramid: 1 is not true or false"),
        ({"context": "both"}, "context: unknown 'both'; give one of joint, shared"),
    ],
)
def test_a_wrong_configuration_is_named_in_one_line(replaced, wrong, message):
    with pytest.raises(InputError) as caught:
        replaced(CONFIG, **wrong)
    assert message in str(caught.value) and "\n" not in str(caught.value)
