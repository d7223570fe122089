"""KARMA reads a query and a history in order, shows an interest alone to what reconstructs it, and counts what it serves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.karma import KarmaLoss, Objective, Shared
from unisc.data.interest_batches import InterestBatch
from unisc.errors import InputError
from unisc.models.decoder import DecoderConfig
from unisc.models.karma import Context, Karma, KarmaConfig, KarmaTrainee, flops_per_example, num_head_params, num_params
from unisc.nn.frozen import Frozen, freeze
from unisc.train.interests import context_of

B, Q, S, K, A, F, E, P, ITEMS, VOCAB = 3, 4, 5, 2, 6, 10, 8, 7, 20, 40
DECODER = DecoderConfig(
    vocab_size=VOCAB, dim=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8, ffn_hidden=24, rope_theta=1e4
)
CONFIG = KarmaConfig(decoder=DECODER, feature_dim=F, embed_dim=E, hidden_dim=12, item_tokens=2, prefix_tokens=3, visual_dim=P)


@pytest.fixture(scope="module")
def model():
    return KarmaTrainee(CONFIG, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def shared():
    draw = np.random.default_rng(1)
    features, visual = (draw.standard_normal((ITEMS, n), np.float32) for n in (F, P))
    return jax.tree.map(jnp.asarray, Shared(features, visual, np.log(np.full(ITEMS, 1 / ITEMS, np.float32))))


@pytest.fixture(scope="module")
def batch():
    draw = np.random.default_rng(2)

    def tokens(width):
        return draw.integers(8, VOCAB, (B, width)).astype(np.int32)

    def rows(*shape):
        return draw.integers(0, ITEMS, shape).astype(np.int32)

    lengths = np.array([[6], [4], [2]])
    found = InterestBatch(
        query=tokens(Q),
        query_mask=np.arange(Q) < [[4], [2], [0]],
        history=rows(B, S),
        history_mask=np.arange(S) < [[5], [3], [0]],
        wanted=np.array([0, 1, 2], np.int32),
        shown=rows(B, K),
        shown_mask=np.arange(K) < [[2], [1], [0]],
        answer=tokens(A),
        answer_mask=np.arange(A) < lengths,
        targets=tokens(A + 1),
        targets_mask=np.arange(A + 1) < lengths + 1,
    )
    return jax.tree.map(jnp.asarray, found)


def slope_of_histories(model, batch, shared, objective, *, hold_interest):
    """Return the slope of the objective by the histories' features; `hold_interest` makes interests constants."""
    kept = Karma.read

    def held(self, *args):
        found = kept(self, *args)
        return found._replace(interest=jax.lax.stop_gradient(found.interest))

    def value(histories):
        seen = batch._replace(history=jnp.arange(B * S).reshape(B, S), wanted=batch.wanted + B * S, shown=batch.shown + B * S)
        all_features = jnp.concatenate([histories.reshape(B * S, F), shared.features])
        given = Shared(all_features, jnp.zeros((ITEMS + B * S, P)), jnp.zeros(ITEMS + B * S))
        return KarmaLoss(objective=objective)(model, None, seen, given)[1]

    with pytest.MonkeyPatch.context() as patch:
        if hold_interest:
            patch.setattr(Karma, "read", held)
        return jax.jacrev(value)(shared.features[batch.history])


def test_reconstruction_sees_nothing_but_the_interest(model, batch, shared):
    slopes = slope_of_histories(model, batch, shared, Objective(gen=1.0, rec=1.0, vis=1.0), hold_interest=True)
    for part in ("act", "rec", "vis"):
        assert not np.any(np.asarray(slopes[part])), part
    assert np.any(np.asarray(slopes["gen"])), "generation reads the history past the interest"
    free = slope_of_histories(model, batch, shared, Objective(gen=1.0, rec=1.0, vis=1.0), hold_interest=False)
    assert all(np.any(np.asarray(slope)) for slope in free.values())
    assert not np.any(np.asarray(free["rec"])[~batch.history_mask]), "padding has no part in it"


def test_the_interest_does_not_see_the_answer_and_generation_does_not_see_ahead(model, batch, shared):
    serve, given = model.serve, context_of(batch, shared.features)
    plain = serve.read(given)
    first = serve.read(given, batch.answer, batch.answer_mask)
    other = batch.answer.at[:, 3].set(9 + batch.answer[:, 3] % 20)
    second = serve.read(given, other, batch.answer_mask)
    np.testing.assert_allclose(plain.interest, first.interest, atol=1e-6)
    np.testing.assert_allclose(first.answer[:, :4], second.answer[:, :4], atol=1e-6)
    assert np.abs(np.asarray(first.answer - second.answer)[0, 4]).max() > 1e-3


def test_padding_changes_nothing_and_order_does(model, batch, shared):
    serve, given = model.serve, context_of(batch, shared.features)
    wider = Context(
        jnp.pad(given.query, ((0, 0), (0, 3)), constant_values=11),
        jnp.pad(given.query_mask, ((0, 0), (0, 3))),
        jnp.pad(given.history, ((0, 0), (0, 2), (0, 0)), constant_values=5.0),
        jnp.pad(given.history_mask, ((0, 0), (0, 2))),
    )
    np.testing.assert_allclose(serve(given), serve(wider), atol=1e-5)
    turned = given._replace(history=given.history[:, ::-1])
    assert np.abs(np.asarray(serve(given) - serve(turned)))[0].max() > 1e-3
    np.testing.assert_allclose(np.linalg.norm(serve(given), axis=1), 1, rtol=1e-5)
    empty = given._replace(history_mask=jnp.zeros_like(given.history_mask), query_mask=jnp.zeros_like(given.query_mask))
    assert np.isfinite(np.asarray(serve(empty))).all()


def test_slots_are_where_items_stand(model, batch, shared):
    serve, given = model.serve, context_of(batch, shared.features)
    x, _ = serve.sequence(given)
    for item in range(S):
        moved, _ = serve.sequence(given._replace(history=given.history.at[:, item].add(1.0)))
        changed = np.flatnonzero(np.any(np.asarray(moved != x), axis=(0, 2)))
        last = int(serve.slots(Q, S)[item])
        assert changed.tolist() == [last - 1, last]
    assert x.shape[1] == 4 + Q + 2 * S


def test_what_serves_is_counted_and_has_no_heads(model):
    leaves = jax.tree.leaves(nnx.state(model.serve, nnx.Param))
    params = num_params(CONFIG)
    assert sum(x.size for x in leaves) == params.dense + params.embedding
    assert sum(x.size for x in jax.tree.leaves(nnx.state(model.heads, nnx.Param))) == num_head_params(CONFIG)


def test_the_counted_work_is_that_of_the_compiled_loss(batch, shared):
    # Sizes at which products dominate, as the count takes for granted.
    decoder = DecoderConfig(
        vocab_size=512, dim=128, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=32, ffn_hidden=384, rope_theta=1e4
    )
    config = KarmaConfig(decoder=decoder, feature_dim=F, embed_dim=64, hidden_dim=128)
    model = KarmaTrainee(config, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(model)
    loss = KarmaLoss(objective=Objective(gen=0.1, rec=0.1))
    measured = jax.jit(lambda state: loss(nnx.merge(graphdef, state), None, batch, shared)[0]).lower(state).cost_analysis()
    counted = flops_per_example(config, query_len=Q, history_len=S, answer_len=A, num_shown=K, has_gen=True, has_rec=True)
    assert B * counted == pytest.approx(measured["flops"], rel=0.05)


def test_what_is_frozen_is_no_parameter():
    model = KarmaTrainee(CONFIG, rngs=nnx.Rngs(0))
    before = nnx.to_pure_dict(nnx.state(model.serve.decoder, nnx.Param))
    freeze(model.serve.decoder)
    assert not jax.tree.leaves(nnx.state(model.serve.decoder, nnx.Param))
    held = nnx.to_pure_dict(nnx.state(model.serve.decoder, Frozen))
    assert jax.tree.structure(before) == jax.tree.structure(held)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(held), strict=True))
    assert jax.tree.leaves(nnx.state(model.serve.own, nnx.Param))


@pytest.mark.parametrize(
    ("changes", "message"), [({"rec": -1.0}, "give weights of at least 0"), ({"temperature": 0.0}, "from 0.01 to 1")]
)
def test_bad_objectives_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        Objective(**changes)
