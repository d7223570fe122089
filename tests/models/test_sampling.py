"""Answers are those of reading all anew at each token; draws follow the distribution asked for; a wide beam misses nothing."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from unisc.errors import InputError
from unisc.models.decoder import Decoder, DecoderConfig
from unisc.models.sampling import SampleConfig, beam, choose, sample

CONFIG = DecoderConfig(vocab_size=5, dim=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8, ffn_hidden=24, max_len=32)


@pytest.fixture(scope="module")
def model():
    graphdef, state = nnx.split(Decoder(CONFIG, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    return nnx.merge(graphdef, jax.tree.map(lambda x: x + 0.5 * jnp.asarray(rng.normal(size=x.shape), x.dtype), state))


def prompts():
    tokens = jnp.asarray(np.random.default_rng(1).integers(0, 5, (3, 6)))
    return tokens, jnp.asarray(np.arange(6) >= np.array([[0], [4], [2]]))


def log_probs_after(model, prompt, answer):
    """Log probabilities of each token of an answer, by reading all of it anew, without a cache or padding."""
    tokens = jnp.asarray([*prompt, *answer])[None]
    every = jax.nn.log_softmax(model.logits(model(model.embed(tokens), jnp.ones(tokens.shape, bool))))[0]
    return np.array([every[len(prompt) - 1 + i, token] for i, token in enumerate(answer)])


def test_the_likeliest_token_each_time(model):
    tokens, valid = prompts()
    said = sample(model, model.embed(tokens), valid, SampleConfig(max_new=5, temperature=0.0), jax.random.key(0))
    for row in range(3):
        prompt, answer = np.asarray(tokens[row])[np.asarray(valid[row])].tolist(), []
        for _ in range(5):
            answer.append(int(np.argmax([log_probs_after(model, prompt, [*answer, token])[-1] for token in range(5)])))
        assert np.asarray(said.tokens[row]).tolist() == answer
        np.testing.assert_allclose(said.log_probs[row], log_probs_after(model, prompt, answer), atol=1e-4)


def test_an_answer_ends_with_its_stop_token(model):
    tokens, valid = prompts()
    config = SampleConfig(max_new=12, stop=(2, 3), pad=4)
    said = sample(model, model.embed(tokens), valid, config, jax.random.key(3))
    ended = 0
    for row, real in zip(np.asarray(said.tokens), np.asarray(said.valid), strict=True):
        length = int(real.sum())
        assert real[:length].all() and (row[length:] == 4).all() and not np.isin(row[: length - 1], (2, 3)).any()
        assert length == 12 or row[length - 1] in (2, 3)
        ended += length < 12
    assert ended


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, [0.4, 0.3, 0.15, 0.1, 0.05]),
        ({"temperature": 0.5}, np.square([0.4, 0.3, 0.15, 0.1, 0.05]) / 0.285),
        ({"top_k": 2}, [4 / 7, 3 / 7, 0, 0, 0]),
        ({"top_p": 0.71}, [0.4 / 0.85, 0.3 / 0.85, 0.15 / 0.85, 0, 0]),
        ({"top_p": 0.69}, [4 / 7, 3 / 7, 0, 0, 0]),
        ({"top_p": 0.01}, [1, 0, 0, 0, 0]),
        ({"temperature": 0.0}, [1, 0, 0, 0, 0]),
        ({"top_k": 3, "top_p": 0.8}, [4 / 7, 3 / 7, 0, 0, 0]),  # of the three left, two hold .82
    ],
    ids=str,
)
def test_draws_follow_the_distribution_asked_for(settings, wanted):
    shares = jnp.broadcast_to(jnp.log(jnp.asarray([0.4, 0.3, 0.15, 0.1, 0.05])), (20_000, 5))
    drawn = choose(shares, SampleConfig(max_new=1, **settings), jax.random.key(0))
    np.testing.assert_allclose(np.bincount(np.asarray(drawn), minlength=5) / 20_000, wanted, atol=0.015)


def test_a_beam_as_wide_as_what_there_is_finds_the_best_of_all(model):
    tokens, valid = prompts()
    config = SampleConfig(max_new=3, stop=(1,), pad=0)
    found = beam(model, model.embed(tokens), valid, config, width=5)
    for row in range(3):
        prompt = np.asarray(tokens[row])[np.asarray(valid[row])].tolist()
        answers = set()
        for whole in itertools.product(range(5), repeat=3):
            answers.add(whole[: whole.index(1) + 1] if 1 in whole else whole)
        ranked = sorted(answers, key=lambda answer: -log_probs_after(model, prompt, answer).sum())
        best = [tuple(t[v].tolist()) for t, v in zip(np.asarray(found.tokens[row]), np.asarray(found.valid[row]), strict=True)]
        assert best[0] == ranked[0]
        for answer, score in zip(best, np.asarray(found.scores[row]), strict=True):
            assert score == pytest.approx(log_probs_after(model, prompt, answer).sum(), abs=1e-3)
        assert list(found.scores[row]) == sorted(found.scores[row], reverse=True) and len(set(best)) == 5


def test_a_beam_of_one_is_the_likeliest_token_each_time(model):
    tokens, valid = prompts()
    config = SampleConfig(max_new=4, temperature=0.0)
    said = sample(model, model.embed(tokens), valid, config, jax.random.key(0))
    np.testing.assert_array_equal(beam(model, model.embed(tokens), valid, config, width=1).tokens[:, 0], said.tokens)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new": 0}, "max_new 0: give at least 1"),
        ({"temperature": -1.0}, "temperature -1.0: give 0"),
        ({"top_k": -2}, "top_k -2: give 0"),
        ({"top_p": 0.0}, "top_p 0.0: give a share above 0"),
        ({"stop": (5,)}, "token 5: not of the vocabulary of 5"),
        ({"max_new": 30}, "36 tokens of prompt and answer: the model reads 32"),
    ],
)
def test_bad_settings_are_one_line(model, settings, message):
    tokens, valid = prompts()
    with pytest.raises(InputError, match=message):
        sample(model, model.embed(tokens), valid, SampleConfig(**({"max_new": 2} | settings)), jax.random.key(0))


def test_a_width_beyond_the_vocabulary_is_refused(model):
    tokens, valid = prompts()
    with pytest.raises(InputError, match="width 6: give 1 to 5"):
        beam(model, model.embed(tokens), valid, SampleConfig(max_new=2), width=6)
