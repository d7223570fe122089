"""What the decoder promises without any oracle: causality, padding, the cache, its counts, and what it refuses to load."""

import dataclasses
import json
import pickle
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.flax import load_file, save_file

from unisc.errors import InputError
from unisc.models.decoder import Decoder, DecoderConfig, flops_per_token, num_params
from unisc.models.hugging_face import load_hf, save_hf
from unisc.models.trace import count

CONFIG = DecoderConfig(vocab_size=50, dim=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=6, ffn_hidden=24)


@pytest.fixture(scope="module")
def model():
    made = Decoder(CONFIG, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(made)
    rng = np.random.default_rng(0)
    state = jax.tree.map(lambda x: x + 0.3 * jnp.asarray(rng.normal(size=x.shape), x.dtype), state)
    return nnx.merge(graphdef, state)


def vectors(rows=2, length=7, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(rows, length, CONFIG.dim)), jnp.float32)


def test_a_token_depends_on_itself_and_on_what_is_before_it_alone(model):
    x, valid = vectors(rows=1), jnp.ones((1, 7), bool)
    for place in (0, 3, 6):
        slope = jax.grad(lambda x, place=place: jnp.sum(model(x, valid)[0, place]))(x)[0]
        moved = np.abs(np.asarray(slope)).sum(axis=1) > 0
        np.testing.assert_array_equal(moved, np.arange(7) <= place)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(model, side):
    x = vectors()
    pad = vectors(length=4, seed=1)
    long = jnp.concatenate([pad, x] if side == "left" else [x, pad], axis=1)
    valid = jnp.asarray(np.arange(11) >= 4 if side == "left" else np.arange(11) < 7)
    read = model(long, jnp.broadcast_to(valid, (2, 11)))[:, np.asarray(valid)]
    np.testing.assert_allclose(read, model(x, jnp.ones((2, 7), bool)), atol=1e-5)


def test_a_cache_read_in_pieces_gives_what_the_whole_gives(model):
    x, valid = vectors(), jnp.ones((2, 7), bool)
    cache, parts = model.empty_cache(2, 12), []
    for start, end in ((0, 3), (3, 4), (4, 7)):
        hidden, cache = jax.jit(lambda x, cache: model.read(x, jnp.ones(x.shape[:2], bool), cache))(x[:, start:end], cache)
        parts.append(hidden)
    np.testing.assert_allclose(jnp.concatenate(parts, axis=1), model(x, valid), atol=1e-5)
    assert np.asarray(cache.valid).sum() == 14


def test_attention_maps_are_those_it_reads_with(model):
    x, valid = vectors(), jnp.asarray(np.arange(7) < np.array([[7], [5]]))
    maps = np.asarray(model.attention_maps(x, valid))
    assert maps.shape == (2, 2, 4, 7, 7)
    np.testing.assert_allclose(maps.sum(axis=-1), 1, rtol=1e-5)
    assert not maps[:, 0][..., ~np.tril(np.ones((7, 7), bool))].any() and not maps[:, 1, :, :5, 5:].any()
    # The first layer by hand: its shares times its values, through its output kernel.
    attention = model.blocks[0].attention
    turns = model._turns(jnp.broadcast_to(jnp.arange(7), (2, 7)))
    _, _, v = attention.project(model.blocks[0].attention_norm(x), turns)
    by_hand = attention.out(jnp.einsum("bnts,bsnh->btnh", maps[0], jnp.repeat(v, 2, axis=2)).reshape(2, 7, -1))
    q, k, v = attention.project(model.blocks[0].attention_norm(x), turns)
    blocked = jnp.where(valid[:, None] & jnp.tril(jnp.ones((7, 7), bool)), 0.0, -1e30)
    np.testing.assert_allclose(by_hand[0], attention.attend(q, k, v, blocked)[0], atol=1e-5)


@pytest.mark.parametrize("change", [{}, {"tied": False}, {"num_kv_heads": 4, "num_layers": 3}])
def test_counts_are_those_of_the_tree_and_of_the_trace(change):
    config = dataclasses.replace(CONFIG, **change)
    model = Decoder(config, rngs=nnx.Rngs(0))
    held = sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))
    counted = num_params(config)
    assert counted.embedding + counted.dense == held
    graphdef, state = nnx.split(model)
    turns = model._turns(jnp.zeros((3, 7), jnp.int32))

    def logits(state, x):
        model = nnx.merge(graphdef, state)
        for block in model.blocks:
            x = block(x, turns, None)
        return model.logits(x)

    assert count(logits, state, vectors(rows=3)).products == 3 * 7 * flops_per_token(config, context=7)


def test_published_sizes():
    small = DecoderConfig(
        vocab_size=151_936, dim=1024, num_layers=28, num_heads=16, num_kv_heads=8, head_dim=128, ffn_hidden=3072
    )
    counted = num_params(small)
    assert round((counted.embedding + counted.dense) / 1e6) == 596  # Qwen3-0.6B
    assert round(counted.dense / 1e6) == 440  # "non-embedding parameters 0.44B"


@pytest.fixture
def folder(model, tmp_path):
    save_hf(model, tmp_path / "whole")
    return tmp_path / "whole"


def test_what_is_written_is_read_back(model, folder):
    again = load_hf(folder)
    assert again.config == model.config
    for a, b in zip(jax.tree.leaves(nnx.state(model)), jax.tree.leaves(nnx.state(again)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert load_hf(folder, dtype=jnp.bfloat16).embedding[...].dtype == jnp.bfloat16


def change_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors), folder / "model.safetensors")


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


KEY = "model.layers.1.self_attn.k_proj.weight"


@pytest.mark.parametrize(
    ("breaking", "message"),
    [
        (lambda f: change_tensors(f, lambda t: {k: v for k, v in t.items() if k != KEY}), "k_proj.weight is missing .1 of 24"),
        (lambda f: change_tensors(f, lambda t: {**t, KEY + "s": t[KEY]}), "k_proj.weights is not of this model; did you mean"),
        (
            lambda f: change_tensors(f, lambda t: {**t, KEY: t[KEY][:, 1:]}),
            "k_proj.weight has shape .12, 15., config.json asks for .12, 16.",
        ),
        (lambda f: change_config(f, hidden_size=18), "has shape .50, 16., config.json asks for .50, 18."),
        (lambda f: change_config(f, model_type="llama"), "model_type 'llama'; only qwen3 is read"),
        (lambda f: change_config(f, attention_bias=True), "attention_bias True; only False is read"),
        (lambda f: change_config(f, rope_parameters={"rope_type": "yarn"}), "rope_type 'yarn'; only 'default' is read"),
        (lambda f: change_config(f, head_dim=5), "head_dim 5: the rotary code turns pairs"),
        (lambda f: (f / "config.json").write_text("{"), "config.json: no readable configuration"),
        (lambda f: (f / "model.safetensors").write_bytes(b"1234"), "not a whole safetensors file"),
        (lambda f: (f / "model.safetensors").unlink(), "no ..safetensors there"),
    ],
)
def test_a_folder_that_is_not_a_checkpoint_is_refused(folder, breaking, message):
    breaking(folder)
    with pytest.raises(InputError, match=message) as raised:
        load_hf(folder)
    assert "\n" not in str(raised.value)


def test_a_pickle_is_never_opened(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(InputError, match=r"pytorch_model.bin: a pickle, which could run code, is not read"):
        load_hf(folder)


def test_a_folder_that_holds_something_is_not_written_over(model, folder):
    with pytest.raises(InputError, match="already exists"):
        save_hf(model, folder)


def test_a_cache_beyond_the_positions_is_refused(model):
    with pytest.raises(InputError, match="cache of 5000 tokens: the model reads 4096"):
        model.empty_cache(1, 5000)


def test_logits_are_those_of_the_reference_implementation():
    folder = Path(__file__).parent / "qwen3_tiny"  # made by qwen3_tiny.py with transformers
    with np.load(folder / "logits.npz") as stored:
        tokens, valid, wanted = stored["tokens"], stored["valid"], stored["logits"]
    model = load_hf(folder)
    logits = model.logits(model(model.embed(jnp.asarray(tokens)), jnp.asarray(valid)))
    np.testing.assert_allclose(np.asarray(logits)[valid], wanted[valid], atol=1e-4)
    assert np.abs(wanted[valid]).max() > 1
