"""The vision tower is SigLIP's: the same outputs as transformers' PyTorch model on the same folder."""

import jax.numpy as jnp
import numpy as np
import pytest

from unisc.models.hugging_face import load_vision_hf, save_vision_hf
from unisc.models.vision import VisionConfig

torch = pytest.importorskip("torch", reason="PyTorch is the oracle here; install torch and transformers")
transformers = pytest.importorskip("transformers", reason="transformers is the oracle here; install torch and transformers")

SIZES = {"image_size": 24, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
SIZES["intermediate_size"] = 48
TEXT = {"hidden_size": 32, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 9}


def randomise(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


@pytest.fixture(scope="module", params=[{}, {"image_size": 29, "num_channels": 1, "layer_norm_eps": 1e-3}, "whole"], ids=str)
def pair(request, tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("hf")
    if request.param == "whole":
        ends = {"bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 4}
        config = transformers.SiglipConfig(vision_config=SIZES, text_config=TEXT | ends)
        whole = randomise(transformers.SiglipModel(config))
        whole.save_pretrained(folder)
        return load_vision_hf(folder), whole.vision_model
    theirs = randomise(transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**SIZES | request.param)))
    theirs.save_pretrained(folder)
    return load_vision_hf(folder), theirs


def outputs(model, images):
    with torch.no_grad():
        found = model(pixel_values=torch.tensor(images).permute(0, 3, 1, 2))
    return found.last_hidden_state.numpy(), found.pooler_output.numpy()


def random_images(config: VisionConfig):
    shape = (3, config.image_size, config.image_size, config.num_channels)
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def test_hidden_and_pooled(pair):
    mine, theirs = pair
    images = random_images(mine.config)
    hidden, pooled = outputs(theirs, images)
    found = mine(jnp.asarray(images))
    np.testing.assert_allclose(found, hidden, atol=1e-4)
    np.testing.assert_allclose(mine.pool(found), pooled, atol=1e-4)
    assert np.abs(pooled).max() > 1


def test_a_folder_written_here_is_read_there(pair, tmp_path):
    mine, theirs = pair
    save_vision_hf(mine, tmp_path / "out")
    again, report = transformers.SiglipVisionModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    images = random_images(mine.config)
    for a, b in zip(outputs(again.eval(), images), outputs(theirs, images), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
