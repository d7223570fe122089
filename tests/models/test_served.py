"""What serves KARMA is kept without its heads, reads the same interests, and is refused where it is not whole."""

import json

import jax
import numpy as np
import pytest
from flax import nnx

from unisc.errors import InputError
from unisc.models.decoder import DecoderConfig
from unisc.models.karma import Context, KarmaConfig, KarmaTrainee
from unisc.models.served import FEATURES, load_karma, save_karma
from unisc.nn.frozen import freeze

CONFIG = KarmaConfig(
    decoder=DecoderConfig(vocab_size=20, dim=8, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=4, ffn_hidden=12),
    feature_dim=5,
    embed_dim=6,
    hidden_dim=7,
)


def context(features):
    rows = np.array([[0, 1, 2], [3, 0, 0]])
    mask = jax.numpy.asarray([[True, True, True], [True, False, False]])
    query = jax.numpy.asarray([[8, 9], [10, 0]], jax.numpy.int32)
    return Context(query, jax.numpy.asarray([[True, True], [True, False]]), jax.numpy.asarray(features[rows]), mask)


@pytest.mark.parametrize("is_frozen", [False, True])
def test_a_saved_model_gives_the_same_interests_and_items(tmp_path, is_frozen):
    features = np.random.default_rng(0).standard_normal((4, 5), np.float32)
    model = KarmaTrainee(CONFIG, rngs=nnx.Rngs(3)).serve
    if is_frozen:
        freeze(model.decoder)
    save_karma(model, tmp_path / "served", features=features)
    found, read = load_karma(tmp_path / "served")
    np.testing.assert_array_equal(read, features)
    np.testing.assert_array_equal(found(context(features)), model(context(features)))
    np.testing.assert_array_equal(found.item(jax.numpy.asarray(features)), model.item(jax.numpy.asarray(features)))
    assert "prefix" not in (tmp_path / "served" / "model" / "model.safetensors").read_bytes()[:5000].decode("latin-1")


def test_what_is_not_whole_is_named(tmp_path):
    folder = tmp_path / "served"
    save_karma(KarmaTrainee(CONFIG, rngs=nnx.Rngs(0)).serve, folder, features=np.zeros((4, 5), np.float32))
    np.save(folder / FEATURES, np.zeros((4, 3), np.float32))
    with pytest.raises(InputError, match=r"of shape \(4, 3\); the model reads 5 an item"):
        load_karma(folder)
    (folder / FEATURES).unlink()
    with pytest.raises(InputError, match="no readable features"):
        load_karma(folder)
    about = folder / "model" / "config.json"
    about.write_text(json.dumps({**json.loads(about.read_text()), "hidden_dim": 9}))
    with pytest.raises(InputError, match=r"has shape .*, config\.json asks for"):
        load_karma(folder)
    about.write_text(json.dumps({**json.loads(about.read_text()), "model_type": "qwen3"}))
    with pytest.raises(InputError, match="not of a KARMA model"):
        load_karma(folder)
