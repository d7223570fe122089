"""What SASRec promises: causality, sequences of a row apart, padding, counts, dropout, and losses that are what they say."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from unisc.data.ragged import Ragged
from unisc.errors import InputError
from unisc.models.sasrec import ItemText, SASRec, SASRecConfig, encode, flops_per_place, num_params
from unisc.models.trace import count
from unisc.objectives import next_item

CONFIG = SASRecConfig(num_items=30, dim=8, num_layers=2, num_heads=2, ffn_hidden=12, max_len=10, dropout=0.3)
TEXT = Ragged.of([[i % 5, 4] if i % 3 else [] for i in range(30)])


def make(**changes):
    model = SASRec(dataclasses.replace(CONFIG, **changes), rngs=nnx.Rngs(0))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: x + 0.3 * jnp.asarray(rng.normal(size=x.shape), x.dtype), params)
    return nnx.merge(graphdef, params, rest)


@pytest.fixture(scope="module", params=["pre", "post"])
def model(request):
    made = make(norm=request.param)
    made.eval()
    return made


def row(*lengths, width=10):
    """Make one row of sequences: items, places and segments."""
    items, place, segment = np.zeros((1, width), np.int32), np.zeros((1, width), np.int32), np.full((1, width), -1, np.int32)
    start = 0
    for number, length in enumerate(lengths):
        items[0, start : start + length] = 1 + np.arange(length) + 7 * number
        place[0, start : start + length] = CONFIG.max_len - length + np.arange(length)
        segment[0, start : start + length] = number
        start += length
    return tuple(map(jnp.asarray, (items, place, segment)))


def test_a_place_depends_on_what_is_before_it_in_its_own_sequence_alone(model):
    items, place, segment = row(4, 5)
    onto = jnp.asarray(model.item_vectors())

    @jax.jit
    def slope(at):
        # Each place has a vector of its own here, so that the gradient says which places were read.
        def output(read):
            return jnp.sum(model(jnp.concatenate([onto, read]), 30 + jnp.arange(10)[None], place, segment)[0, at])

        return jnp.abs(jax.grad(output)(onto[items[0]])).sum(axis=1) > 0

    for at, read in ((0, [0]), (3, [0, 1, 2, 3]), (4, [4]), (7, [4, 5, 6, 7])):
        np.testing.assert_array_equal(np.flatnonzero(slope(at)), read)


def test_sequences_are_read_alike_alone_and_beside_others_and_padding_changes_nothing(model):
    vectors = model.item_vectors()
    both = model(vectors, *row(4, 5))[0]
    np.testing.assert_allclose(model(vectors, *row(4))[0, :4], both[:4], atol=1e-5)
    items, place, segment = row(4, 5)
    np.testing.assert_allclose(model(vectors, items[:, 4:9], place[:, 4:9], segment[:, 4:9])[0], both[4:9], atol=1e-5)


def test_encoding_reads_the_last_items_of_a_history_whatever_stands_beside_it(model):
    long = np.arange(25) % 30
    histories = Ragged.of([[3, 4], [], long.tolist(), long[-10:].tolist(), [5]])
    queries, vectors = encode(model, histories, block=2)
    np.testing.assert_allclose(queries[2], queries[3], atol=1e-6)
    assert not queries[1].any() and vectors.shape == (30, 8)
    by_hand = model(model.item_vectors(), jnp.array([[3, 4]]), jnp.array([[8, 9]]), jnp.zeros((1, 2), jnp.int32))[0, -1]
    np.testing.assert_allclose(queries[0], by_hand, atol=1e-5)


def test_text_is_the_mean_of_an_items_words():
    model = make(vocab_size=5)
    vectors = model.item_vectors(ItemText.of(TEXT, vocab_size=5))
    np.testing.assert_allclose(vectors[0], model.items[...][0])  # an item without text
    np.testing.assert_allclose(vectors[7], model.items[...][7] + (model.words[...][2] + model.words[...][4]) / 2, rtol=1e-5)
    with pytest.raises(InputError, match="vocab_size 3: the texts hold token 4"):
        ItemText.of(TEXT, vocab_size=3)


def test_dropout_draws_anew_each_call_and_not_at_all_in_evaluation():
    model = make()
    vectors, given = model.item_vectors(), row(4, 5)
    assert (np.asarray(model(vectors, *given)) != np.asarray(model(vectors, *given))).any()
    model.eval()
    np.testing.assert_array_equal(model(vectors, *given), model(vectors, *given))


@pytest.mark.parametrize("change", [{}, {"norm": "post", "num_layers": 1}, {"vocab_size": 5, "ffn_hidden": 20}])
def test_counts_are_those_of_the_tree_and_of_the_trace(change):
    config = dataclasses.replace(CONFIG, dropout=0.0, **change)
    model = SASRec(config, rngs=nnx.Rngs(0))
    held = sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))
    counted = num_params(config)
    assert counted.embedding + counted.dense == held
    graphdef, state = nnx.split(model)

    def scores(state, vectors, items, place, segment):
        model = nnx.merge(graphdef, state)
        return model.scores(model(vectors, items, place, segment), vectors)

    traced = count(scores, state, jnp.zeros((30, 8)), *row(4, 5))
    assert traced.products == 10 * flops_per_place(config, num_scored=30)


def losses(seed=0):
    rng = np.random.default_rng(seed)
    hidden, vectors = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((2, 3, 4), (20, 4)))
    targets = jnp.asarray(rng.integers(0, 20, (2, 3)), jnp.int32)
    return hidden, vectors, targets, jnp.asarray([[1.0, 1, 0], [1, 0, 0]])


def test_softmax_is_cross_entropy_over_real_places():
    hidden, vectors, targets, weights = losses()
    logits = 2 * np.einsum("btd,id->bti", hidden, vectors)
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    by_hand = -np.mean([log_p[b, t, targets[b, t]] for b, t in ((0, 0), (0, 1), (1, 0))])
    assert float(next_item.softmax(hidden, vectors, targets, weights, scale=2.0)) == pytest.approx(by_hand, rel=1e-5)


def test_sampled_softmax_of_the_whole_catalogue_is_the_softmax():
    hidden, vectors, targets, weights = losses()
    everything = jnp.arange(20, dtype=jnp.int32).reshape(2, 10)
    found = next_item.sampled_softmax(hidden, vectors, targets, everything, weights)
    whole = next_item.softmax(hidden, vectors, targets, weights)
    assert float(found) == pytest.approx(float(whole), rel=1e-5)
    rng = np.random.default_rng(1)
    many = jnp.asarray(rng.integers(0, 20, (2, 20_000)), jnp.int32)
    assert float(next_item.sampled_softmax(hidden, vectors, targets, many, weights)) == pytest.approx(float(whole), abs=0.02)


def test_binary_is_the_published_loss():
    hidden, vectors, targets, weights = losses()
    negatives = (targets + 1) % 20
    scores = np.einsum("btd,id->bti", hidden, vectors)
    terms = [
        np.log1p(np.exp(-scores[b, t, targets[b, t]])) + np.log1p(np.exp(scores[b, t, negatives[b, t]]))
        for b, t in ((0, 0), (0, 1), (1, 0))
    ]
    found = next_item.binary(hidden, vectors, targets, negatives, weights)
    assert float(found) == pytest.approx(np.mean(terms), rel=1e-5)
    alone = next_item.binary(hidden, vectors, targets, targets, weights)
    assert float(alone) < float(found)  # a draw that is the target counts for nothing


@pytest.mark.parametrize(
    ("change", "message"),
    [({"dropout": 1.0}, "dropout 1.0"), ({"num_heads": 3}, "dim: 8"), ({"norm": "none"}, "norm"), ({"max_len": 0}, "max_len")],
)
def test_a_mistake_is_named(change, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(CONFIG, **change)
