"""Contrastive losses against slow float64 references, what may not change them, and what the correction makes of a sample."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unisc.errors import InputError
from unisc.objectives.contrastive import Hard, full_softmax, info_nce, matryoshka, sampled_softmax, sigmoid_loss

B, D, K, I = 6, 5, 3, 20  # noqa: E741
SCALE = 4.0


def draw(seed=0, rows=B):
    """Draw queries, a catalogue, each row's item (some twice in the batch), own negatives, and the items' shares."""
    rng = np.random.default_rng(seed)
    catalogue, queries = rng.normal(size=(I, D)) / 2, rng.normal(size=(rows, D)) / 2
    ids = rng.integers(0, I // 2, rows)
    hard = np.stack([rng.permutation(np.delete(np.arange(I), i))[:K] for i in ids])
    share = rng.random(I) + 0.1
    return queries, catalogue, ids, hard, rng.random((rows, K)) < 0.7, share / share.sum(), rng.random((rows, rows)) < 0.2


def as_jax(queries, catalogue, ids, hard, mask, share, known):
    f32, i32 = (lambda x: jnp.asarray(x, jnp.float32)), (lambda x: jnp.asarray(x, jnp.int32))
    given = Hard(f32(catalogue[hard]), i32(hard), jnp.asarray(mask))
    return f32(queries), f32(catalogue[ids]), i32(ids), given, f32(np.log(share[ids])), jnp.asarray(known)


def slow(kind, queries, catalogue, ids, hard, mask, share, known, columns=None, bias=0.0):
    """One row after the other, one column after the other, in float64."""
    own_columns, columns = columns is None, ids if columns is None else columns
    draws, losses = len(ids) - 1 if own_columns else len(columns), []
    for i, query in enumerate(queries):
        positive = SCALE * query @ catalogue[ids[i]]
        own = [h for h, m in zip(hard[i], mask[i], strict=True) if m]
        others = [SCALE * query @ catalogue[h] for h in own]
        for j, c in enumerate(columns):
            if c != ids[i] and c not in own and not (own_columns and known[i, j]):
                others.append(SCALE * query @ catalogue[c] - (np.log(draws * share[c]) if kind == "corrected" else 0.0))
        others = np.array(others)
        if kind == "sigmoid":
            losses.append(np.log1p(np.exp(-positive - bias)) + np.log1p(np.exp(others + bias)).sum())
        else:
            losses.append(np.log(np.exp(positive) + np.exp(others).sum()) - positive)
    return np.array(losses)


@pytest.mark.parametrize("seed", range(3))
def test_every_loss_is_its_reference(seed):
    drawn = draw(seed)
    queries, items, ids, hard, log_prob, known = as_jax(*drawn)
    close = {"rtol": 1e-5, "atol": 1e-6}
    found = info_nce(queries, items, ids, scale=SCALE, hard=hard, log_prob=log_prob, known=known)
    np.testing.assert_allclose(found, slow("corrected", *drawn), **close)
    found = info_nce(queries, items, ids, scale=jnp.float32(SCALE), hard=hard, known=known)
    np.testing.assert_allclose(found, slow("plain", *drawn), **close)
    found = sigmoid_loss(queries, items, ids, scale=SCALE, bias=-2.0, hard=hard, known=known)
    np.testing.assert_allclose(found, slow("sigmoid", *drawn, bias=-2.0), **close)
    columns = np.random.default_rng(seed).integers(0, I, 9)
    shared = jnp.asarray(drawn[1][columns], jnp.float32), jnp.asarray(columns, jnp.int32)
    found = sampled_softmax(
        queries, items, ids, *shared, scale=SCALE, log_prob=jnp.asarray(np.log(drawn[5][columns]), jnp.float32), hard=hard
    )
    np.testing.assert_allclose(found, slow("corrected", *drawn, columns=columns), **close)


@pytest.mark.parametrize("chunk", [1, 7, I, 64])
def test_the_full_softmax_and_its_gradient_are_those_of_all_logits_at_once(chunk):
    queries, catalogue, ids, *_ = draw()
    queries, catalogue, ids = jnp.asarray(queries, jnp.float32), jnp.asarray(catalogue, jnp.float32), jnp.asarray(ids)

    def plain(queries, catalogue, scale):
        logits = scale * queries @ catalogue.T
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), ids[:, None], axis=1))

    def chunked(queries, catalogue, scale):
        return jnp.mean(full_softmax(queries, catalogue, ids, scale=scale, chunk=chunk))

    given = queries, catalogue, jnp.float32(SCALE)
    for found, wanted in zip(
        jax.tree.leaves(jax.value_and_grad(chunked, (0, 1, 2))(*given)),
        jax.tree.leaves(jax.value_and_grad(plain, (0, 1, 2))(*given)),
        strict=True,
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_the_full_softmax_never_holds_all_logits():
    rows, items, chunk = 64, 4096, 128
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((rows, 4), (items, 4))]
    ids = jax.ShapeDtypeStruct((rows,), jnp.int32)

    def loss(queries, catalogue, ids):
        return jnp.sum(full_softmax(queries, catalogue, ids, scale=1.0, chunk=chunk))

    held = jax.jit(jax.grad(loss, (0, 1))).lower(*shapes, ids).compile().memory_analysis().temp_size_in_bytes
    assert held < 4 * rows * items / 2


@given(seed=st.integers(0, 2**16), order=st.permutations(range(B)))
@settings(max_examples=15, deadline=None)
def test_rows_may_come_in_any_order(seed, order):
    queries, items, ids, hard, log_prob, known = as_jax(*draw(seed))
    order = jnp.asarray(order)
    moved = [x[order] for x in (queries, items, ids)], jax.tree.map(lambda x: x[order], hard)
    moved_known = known[order][:, order]
    for loss, extra in ((info_nce, {"log_prob": log_prob}), (sigmoid_loss, {"bias": -1.0})):
        whole = loss(queries, items, ids, scale=SCALE, hard=hard, known=known, **extra)
        extra = {"log_prob": log_prob[order]} if "log_prob" in extra else extra
        again = loss(*moved[0], scale=SCALE, hard=moved[1], known=moved_known, **extra)
        np.testing.assert_allclose(again, whole[order], rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("loss", [info_nce, sigmoid_loss])
def test_a_column_of_the_own_item_or_of_a_known_one_is_no_negative(loss):
    queries, items, _, _, _, _ = as_jax(*draw())
    ids, known = jnp.asarray([3, 3, 3, 7, 8, 9]), jnp.zeros((B, B), bool).at[3, 4].set(True)
    extra = {} if loss is info_nce else {"bias": 0.0}

    def row(items, which):
        return loss(queries, items, ids, scale=SCALE, known=known, **extra)[which]

    moves = np.abs(np.stack([jax.grad(row)(items, i) for i in range(B)])).sum(axis=2) > 0
    np.testing.assert_array_equal(moves[0], [True, False, False, True, True, True])
    np.testing.assert_array_equal(moves[3], [True, True, True, True, False, True])


def test_a_batch_of_one_item_has_nothing_to_learn_but_stays_finite():
    queries, items, *_ = as_jax(*draw())
    same = jnp.zeros(B, jnp.int32)
    value, slope = jax.value_and_grad(lambda q: jnp.sum(info_nce(q, items, same, scale=SCALE)))(queries)
    assert value == 0 and not slope.any()
    slope = jax.grad(lambda q: jnp.sum(sigmoid_loss(q, items, same, scale=SCALE, bias=0.0)))(queries)
    assert np.isfinite(slope).all() and slope.any()


def test_a_corrected_sample_has_on_average_the_gradient_of_the_full_softmax():
    """Draws by a skewed q: corrected, the loss and its slope come to the full softmax's; uncorrected they stay away."""
    queries, catalogue, ids, hard, mask, _, _ = draw(rows=2)
    share = np.arange(1, I + 1.0) ** -1.0
    share /= share.sum()
    f32 = [jnp.asarray(x, jnp.float32) for x in (queries, catalogue)]
    rows, hard = jnp.asarray(ids), Hard(f32[1][hard], jnp.asarray(hard), jnp.asarray(mask))
    exact = jax.value_and_grad(lambda q: jnp.mean(full_softmax(q, f32[1], rows, scale=SCALE, chunk=I)))(f32[0])

    @jax.jit
    def sampled(drawn, log_prob):
        def loss(q):
            given = (f32[1][rows], rows, f32[1][drawn], drawn)
            return jnp.mean(sampled_softmax(q, *given, scale=SCALE, log_prob=log_prob[drawn], hard=hard))

        return jax.value_and_grad(loss)(f32[0])

    rng, gaps = np.random.default_rng(0), {}
    for count in (200, 20_000):
        columns = jnp.asarray(rng.choice(I, count, p=share), jnp.int32)
        for name, log_prob in (("corrected", np.log(share)), ("not", np.full(I, -np.log(count)))):
            found = sampled(columns, jnp.asarray(log_prob, jnp.float32))
            gaps[name, count] = max(float(jnp.max(jnp.abs(a - b))) for a, b in zip(found, exact, strict=True))
    assert gaps["corrected", 20_000] < 0.02 < gaps["not", 20_000]
    assert gaps["corrected", 20_000] < gaps["corrected", 200]


def test_matryoshka_is_the_mean_over_prefixes_each_made_unit_again():
    queries, items, ids, *_ = as_jax(*draw())
    found = matryoshka(lambda q, i, absent: info_nce(q, i, ids, scale=SCALE), (2, D), queries, items, None)
    by_hand = []
    for width in (2, D):
        q, i = (np.asarray(x)[:, :width] for x in (queries, items))
        q, i = (jnp.asarray(x / np.linalg.norm(x, axis=1, keepdims=True)) for x in (q, i))
        by_hand.append(info_nce(q, i, ids, scale=SCALE))
    np.testing.assert_allclose(found, (by_hand[0] + by_hand[1]) / 2, rtol=1e-5)
    for widths in ((), (0,), (2, D + 1)):
        with pytest.raises(InputError, match="give widths from 1 to 5"):
            matryoshka(lambda q: q[:, 0], widths, queries)


def test_bfloat16_vectors_give_float32_losses():
    queries, items, ids, hard, log_prob, _ = as_jax(*draw())
    narrow = [x.astype(jnp.bfloat16) for x in (queries, items)]
    hard = hard._replace(vectors=hard.vectors.astype(jnp.bfloat16))
    found = info_nce(*narrow, ids, scale=jnp.float32(SCALE), hard=hard, log_prob=log_prob)
    assert found.dtype == jnp.float32
