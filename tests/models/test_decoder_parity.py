"""The decoder is Qwen3: the same logits as transformers' PyTorch model on the same folder, in every way of reading."""

import jax.numpy as jnp
import numpy as np
import pytest

from unisc.models.decoder import DecoderConfig
from unisc.models.hugging_face import load_hf, save_hf

torch = pytest.importorskip("torch", reason="PyTorch is the oracle here; install torch and transformers")
transformers = pytest.importorskip("transformers", reason="transformers is the oracle here; install torch and transformers")

SIZES = {"vocab_size": 97, "dim": 32, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "head_dim": 16, "ffn_hidden": 48}


@pytest.fixture(scope="module", params=[{}, {"tied": False, "num_kv_heads": 4}, {"num_kv_heads": 1, "head_dim": 8}], ids=str)
def pair(request, tmp_path_factory):
    config = DecoderConfig(**SIZES | request.param)
    made = transformers.Qwen3Config(
        vocab_size=97,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        intermediate_size=48,
        tie_word_embeddings=config.tied,
        rope_theta=1e6,
        max_position_embeddings=4096,
    )
    torch.manual_seed(0)
    theirs = transformers.Qwen3ForCausalLM(made).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():  # norms start at 1, which would hide their use
            parameter.add_(torch.randn_like(parameter) * (0.3 if "norm" in name else 0.1))
    folder = tmp_path_factory.mktemp("hf")
    theirs.save_pretrained(folder)
    mine = load_hf(folder)
    assert mine.config == config
    return mine, theirs


def theirs_of(model, tokens, valid):
    place = np.maximum(np.cumsum(valid, axis=1) - 1, 0)
    with torch.no_grad():
        return model(
            input_ids=torch.tensor(tokens), attention_mask=torch.tensor(valid.astype(int)), position_ids=torch.tensor(place)
        ).logits.numpy()


def batch(kind, rows=3, length=11):
    tokens = np.random.default_rng(1).integers(0, 97, (rows, length))
    lengths = np.array([length, 4, 7])[:, None]
    place = np.arange(length)
    valid = {"none": place < length, "right": place < lengths, "left": place >= length - lengths}[kind]
    return tokens, np.broadcast_to(valid, tokens.shape)


@pytest.mark.parametrize("padding", ["none", "right", "left"])
def test_whole_sequences(pair, padding):
    mine, theirs = pair
    tokens, valid = batch(padding)
    logits = mine.logits(mine(mine.embed(jnp.asarray(tokens)), jnp.asarray(valid)))
    wanted = theirs_of(theirs, tokens, valid)
    np.testing.assert_allclose(np.asarray(logits)[valid], wanted[valid], atol=1e-4)


@pytest.mark.parametrize("padding", ["none", "right", "left"])
def test_a_prompt_and_then_one_token_at_a_time(pair, padding):
    mine, theirs = pair
    tokens, valid = batch(padding)
    more = np.random.default_rng(2).integers(0, 97, (3, 4))
    cache = mine.empty_cache(3, 20)
    hidden, cache = mine.read(mine.embed(jnp.asarray(tokens)), jnp.asarray(valid), cache)
    parts = [mine.logits(hidden)]
    for step in range(4):
        hidden, cache = mine.read(mine.embed(jnp.asarray(more[:, step : step + 1])), jnp.ones((3, 1), bool), cache)
        parts.append(mine.logits(hidden))
    every = np.concatenate([valid, np.ones((3, 4), bool)], axis=1)
    wanted = theirs_of(theirs, np.concatenate([tokens, more], axis=1), every)
    np.testing.assert_allclose(np.concatenate(parts, axis=1)[every], wanted[every], atol=1e-4)
    assert int(cache.length) == 15


def test_a_folder_written_here_is_read_there(pair, tmp_path):
    mine, theirs = pair
    save_hf(mine, tmp_path / "out")
    again = transformers.Qwen3ForCausalLM.from_pretrained(tmp_path / "out").eval()
    for (name, a), (_, b) in zip(theirs.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    tokens, valid = batch("none")
    np.testing.assert_allclose(theirs_of(again, tokens, valid), theirs_of(theirs, tokens, valid), atol=1e-6)
