"""OneTrans against a run of one plain causal sequence a candidate, its pyramid, its cache across candidates, and its sizes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from unisc.models import onetrans
from unisc.models.onetrans import OneTrans, OneTransConfig, OneTransLayer, Tokens
from unisc.nn.slots import Slots
from unisc.objectives.ranking import bce

CONFIG = OneTransConfig(embed_dim=4, dim=8, num_layers=3, num_heads=2, num_tokens=4, num_request_tokens=2)
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


def test_without_request_tokens_other_candidates_do_not_change_a_score(setting):
    spec, batch, rows = setting
    dense, score = build(spec, "shared", 0)
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


def test_the_pyramid_shrinks_linearly_to_the_ns_tokens(replaced):
    deep = replaced(CONFIG, num_layers=6)
    assert deep.lengths(1178) == [1178, 982, 786, 589, 393, 197, 0]
    assert deep.lengths(2) == [2, 2, 2, 1, 1, 1, 0] and deep.lengths(0) == [0] * 7
    assert replaced(deep, pyramid=False).lengths(5) == [5] * 6 + [0]


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
