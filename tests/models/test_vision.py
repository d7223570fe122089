"""What the vision tower promises without any oracle: its counts, its patches, and what it refuses to read or load."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.flax import load_file, save_file

from unisc.errors import InputError
from unisc.models.hugging_face import load_vision_hf, read_vision_config, save_vision_hf
from unisc.models.trace import count, count_jaxpr
from unisc.models.vision import Vision, VisionConfig, cut_patches, flops_per_image, num_params

TINY = Path(__file__).parent / "siglip_tiny"  # made by siglip_tiny.py with transformers
BASE = VisionConfig(image_size=224, patch_size=16, dim=768, num_layers=12, num_heads=12, ffn_hidden=3072)
SO400M = VisionConfig(image_size=384, patch_size=14, dim=1152, num_layers=27, num_heads=16, ffn_hidden=4304)


@pytest.fixture(scope="module")
def model():
    return load_vision_hf(TINY)


def test_outputs_are_those_of_the_reference_implementation(model):
    with np.load(TINY / "outputs.npz") as stored:
        images, hidden, pooled = (stored[name] for name in ("images", "hidden", "pooled"))
    mine = model(jnp.asarray(images))
    np.testing.assert_allclose(mine, hidden, atol=1e-4)
    np.testing.assert_allclose(model.pool(mine), pooled, atol=1e-4)
    assert np.abs(pooled).max() > 1 and np.abs(pooled[0] - pooled[1]).max() > 0.01


def abstract(config):
    graphdef, state = nnx.split(nnx.eval_shape(lambda: Vision(config, rngs=nnx.Rngs(0))))

    def pooled(state, images):
        model = nnx.merge(graphdef, state)
        return model.pool(model(images))

    return pooled, state


@pytest.mark.parametrize(
    "config",
    [
        VisionConfig(image_size=14, patch_size=4, dim=8, num_layers=2, num_heads=2, ffn_hidden=12),
        VisionConfig(image_size=12, patch_size=3, num_channels=1, dim=12, num_layers=3, num_heads=4, ffn_hidden=20),
        BASE,
        SO400M,
    ],
    ids=lambda config: f"{config.dim}",
)
def test_counts_are_those_of_the_tree_of_the_trace_and_of_xla(config):
    pooled, state = abstract(config)
    assert num_params(config).dense == sum(x.size for x in jax.tree.leaves(state))
    images = jax.ShapeDtypeStruct((8, config.image_size, config.image_size, config.num_channels), jnp.float32)
    traced = jax.jit(pooled).trace(state, images)
    work = count_jaxpr(traced.jaxpr.jaxpr)
    once = 2 * config.dim**2  # the head's query
    assert work.products == 8 * flops_per_image(config) + once
    measured = traced.lower().cost_analysis()["flops"]
    assert measured == pytest.approx(work.products + work.elementwise, rel=0.01)
    if config.dim > 100:
        assert measured == pytest.approx(8 * flops_per_image(config), rel=0.02)


def test_published_sizes():
    assert round(num_params(BASE).dense / 1e6) == 93  # SigLIP B/16: 92.9 million
    assert round(num_params(SO400M).dense / 1e6) == 428  # and So400m/14 at 384: 428.2 million
    assert round(flops_per_image(BASE) / 2e9) == 18  # 17.6 giga multiply-adds, as B/16 is said to have, and the head


def test_patches_are_read_row_by_row_and_the_rest_of_the_image_is_not():
    config = VisionConfig(image_size=5, patch_size=2, num_channels=1, dim=4, num_layers=1, num_heads=1, ffn_hidden=4)
    image = jnp.arange(25.0).reshape(1, 5, 5, 1)
    np.testing.assert_array_equal(
        cut_patches(image, config)[0], [[0, 1, 5, 6], [2, 3, 7, 8], [10, 11, 15, 16], [12, 13, 17, 18]]
    )


def test_a_patch_moves_all_vectors_and_the_order_of_patches_matters(model):
    image = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (1, 14, 14, 3)), jnp.float32)
    before, after = model(image), model(image.at[0, 0, 0, 0].add(1.0))
    assert (np.abs(np.asarray(before - after)).max(axis=-1) > 1e-6).all()
    assert np.abs(np.asarray(model.pool(before) - model.pool(model(image[:, ::-1])))).max() > 1e-3


@pytest.mark.parametrize("shape", [(2, 16, 14, 3), (2, 14, 14, 1), (2, 3, 14, 14)])
def test_an_image_of_another_size_is_refused(model, shape):
    with pytest.raises(InputError, match=r"images of shape .*: the model reads \(14, 14, 3\); resize them"):
        model(jnp.zeros(shape))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": 20}, "patch_size: 20 is more than image_size=14"),
        ({"dim": 9}, "dim: 9 does not divide into num_heads=2"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(changes, message):
    sizes = {"image_size": 14, "patch_size": 4, "dim": 8, "num_layers": 2, "num_heads": 2, "ffn_hidden": 12}
    with pytest.raises(InputError, match=message):
        VisionConfig(**sizes | changes)


@pytest.fixture
def folder(model, tmp_path):
    save_vision_hf(model, tmp_path / "whole")
    return tmp_path / "whole"


def same(a, b):
    for x, y in zip(jax.tree.leaves(nnx.state(a)), jax.tree.leaves(nnx.state(b)), strict=True):
        np.testing.assert_array_equal(x, y)


def change_tensors(folder, change):
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors")


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_is_written_is_read_back(model, folder):
    again = load_vision_hf(folder)
    assert again.config == model.config
    same(again, model)
    assert load_vision_hf(folder, dtype=jnp.bfloat16).positions[...].dtype == jnp.bfloat16


def test_of_a_whole_siglip_the_vision_part_is_read(model, folder):
    change_tensors(folder, lambda t: {**t, "text_model.head.bias": jnp.zeros(3), "logit_scale": jnp.zeros(1)})
    whole = {"model_type": "siglip", "vision_config": json.loads((folder / "config.json").read_text()), "text_config": {}}
    (folder / "config.json").write_text(json.dumps(whole))
    same(load_vision_hf(folder), model)


def test_a_configuration_that_leaves_things_out_is_of_the_base_size(tmp_path):
    part = {"model_type": "siglip_vision_model"}  # as in google/siglip-base-patch16-224
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip", "vision_config": part}))
    assert read_vision_config(tmp_path) == BASE


KEY = "vision_model.encoder.layers.1.self_attn.k_proj.weight"


@pytest.mark.parametrize(
    ("breaking", "message"),
    [
        (lambda f: change_tensors(f, lambda t: {k: v for k, v in t.items() if k != KEY}), "k_proj.weight is missing .1 of 48"),
        (lambda f: change_tensors(f, lambda t: {**t, KEY + "s": t[KEY]}), "k_proj.weights is not of this model; did you mean"),
        (lambda f: change_tensors(f, lambda t: {**t, KEY[13:]: t[KEY]}), "k_proj.weight is there a second time"),
        (
            lambda f: change_config(f, patch_size=7),
            "patch_embedding.weight has shape .8, 3, 4, 4., config.json asks for .8, 3, 7",
        ),
        (lambda f: change_config(f, image_size=20), "position_embedding.weight has shape .9, 8., config.json asks for .25, 8."),
        (lambda f: change_config(f, num_hidden_layers=1), "layers.1.* is not of this model"),
        (lambda f: change_config(f, vision_use_head=False), "vision_use_head False; only True is read"),
        (lambda f: change_config(f, hidden_act="gelu"), "hidden_act 'gelu'; only 'gelu_pytorch_tanh' is read"),
        (lambda f: change_config(f, model_type="clip"), "model_type 'clip'; only siglip"),
        (lambda f: (f / "config.json").write_text("[]"), "config.json: not a table of fields"),
        (lambda f: (f / "model.safetensors").rename(f / "model.bin"), "model.bin: a pickle, which could run code, is not read"),
    ],
)
def test_a_folder_that_is_not_a_checkpoint_is_refused(folder, breaking, message):
    breaking(folder)
    with pytest.raises(InputError, match=message) as raised:
        load_vision_hf(folder)
    assert "\n" not in str(raised.value)


def test_layers_can_be_computed_again(model):
    from unisc.nn.recompute import recomputing

    graphdef, state = nnx.split(model)
    images = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 14, 14, 3)), jnp.float32)

    def slopes(wanted):
        def loss(state):
            model = nnx.merge(graphdef, state)
            with recomputing(wanted):
                return jnp.sum(jnp.sin(model.pool(model(images))))

        return jax.jit(jax.grad(loss))(state)

    for a, b in zip(jax.tree.leaves(slopes(False)), jax.tree.leaves(slopes(True)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert count(lambda x: model.pool(model(x)), images).products
