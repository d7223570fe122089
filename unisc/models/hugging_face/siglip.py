"""Vision towers to and from a folder of a SigLIP model: its vision part alone, or the whole, of which that part is read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import nnx

from unisc.errors import InputError
from unisc.models.hugging_face.folder import TRANSPOSED, Layout, Place, check_only, load, parameters, read_json, save
from unisc.models.vision import Vision, VisionConfig

PREFIX = "vision_model."
"""Before every name in a whole model and in most published vision parts; recent writers leave it out of the latter."""
_OTHERS = ("text_model.", "logit_scale", "logit_bias")
"""What a whole model has beside its vision part."""

_FIELDS = {
    "image_size": ("image_size", 224),
    "patch_size": ("patch_size", 16),
    "num_channels": ("num_channels", 3),
    "dim": ("hidden_size", 768),
    "num_layers": ("num_hidden_layers", 12),
    "num_heads": ("num_attention_heads", 12),
    "ffn_hidden": ("intermediate_size", 3072),
    "norm_eps": ("layer_norm_eps", 1e-6),
}
"""Their names there, and what their absence means: published configurations leave out what is as in the base size."""
_ONLY = {"hidden_act": "gelu_pytorch_tanh", "vision_use_head": True}
_LAYER = {
    "layer_norm1": (("attention_norm",), "gain bias"),
    "self_attn.q_proj": (("attention", "query"), "kernel bias"),
    "self_attn.k_proj": (("attention", "key"), "kernel bias"),
    "self_attn.v_proj": (("attention", "value"), "kernel bias"),
    "self_attn.out_proj": (("attention", "out"), "kernel bias"),
    "layer_norm2": (("ffn_norm",), "gain bias"),
    "mlp.fc1": (("ffn", "up"), "kernel bias"),
    "mlp.fc2": (("ffn", "down"), "kernel bias"),
}
_HEAD = {
    "head.attention.out_proj": (("head", "out"), "kernel bias"),
    "head.layernorm": (("head", "norm"), "gain bias"),
    "head.mlp.fc1": (("head", "ffn", "up"), "kernel bias"),
    "head.mlp.fc2": (("head", "ffn", "down"), "kernel bias"),
}


def load_vision_hf(folder: Path, *, dtype: Any = jnp.float32) -> Vision:
    """Return the vision tower of a Hugging Face folder of a SigLIP model, whole or its vision part, its parameters as `dtype`.

    Raises:
      InputError: no such folder, another architecture, weights as pickles, or a tensor that is missing, extra or of another
        shape (named).
    """
    config = read_vision_config(folder)

    def rename(name: str) -> str | None:
        return None if name.startswith(_OTHERS) else name.removeprefix(PREFIX)

    return load(folder, lambda: Vision(config, rngs=nnx.Rngs(0)), dict(_places(config)), dtype=dtype, rename=rename)


def save_vision_hf(model: Vision, folder: Path) -> None:
    """Write a vision tower as a Hugging Face folder of type "siglip_vision_model".

    Raises:
      InputError: the folder holds something, or cannot be written.
    """
    fields = {key: getattr(model.config, name) for name, (key, _) in _FIELDS.items()}
    kind = {
        "model_type": "siglip_vision_model",
        "architectures": ["SiglipVisionModel"],
        "torch_dtype": str(model.positions[...].dtype),
    }
    save(model, folder, {PREFIX + name: place for name, place in _places(model.config)}, {**kind, **fields, **_ONLY}, {})


def read_vision_config(folder: Path) -> VisionConfig:
    """Return the configuration in a folder's config.json. Raises InputError for another architecture or variant."""
    path, found = read_json(folder)
    kind = found.get("model_type")
    if kind == "siglip":
        found = found.get("vision_config") or {}
    elif kind != "siglip_vision_model":
        raise InputError(f"{path}: model_type {kind!r}; only siglip and siglip_vision_model are read")
    check_only(path, found, _ONLY)
    return VisionConfig(**{name: found.get(key, default) for name, (key, default) in _FIELDS.items()})


def _places(config: VisionConfig) -> Iterator[tuple[str, Place]]:
    """Give every tensor's name there, without the prefix, and its place here."""
    yield "embeddings.patch_embedding.weight", Place(("patches", "kernel"), _patches(config))
    yield "embeddings.patch_embedding.bias", Place(("patches", "bias"))
    yield "embeddings.position_embedding.weight", Place(("positions",))
    for layer in range(config.num_layers):
        for name, (path, kinds) in _LAYER.items():
            yield from parameters(f"encoder.layers.{layer}.{name}", ("blocks", layer, *path), kinds)
    yield from parameters("post_layernorm", ("norm",), "gain bias")
    yield "head.probe", Place(("head", "probe"), Layout(jnp.ravel, lambda x: x.reshape(1, 1, -1)))
    # Queries, keys and values of the pooling head are one kernel, there as here.
    yield "head.attention.in_proj_weight", Place(("head", "inputs", "kernel"), TRANSPOSED)
    yield "head.attention.in_proj_bias", Place(("head", "inputs", "bias"))
    for name, (path, kinds) in _HEAD.items():
        yield from parameters(name, path, kinds)


def _patches(config: VisionConfig) -> Layout:
    """A convolution's (out, channel, row, column) there, a map of patches laid out row, column, channel here."""
    sides = (config.patch_size, config.patch_size, config.num_channels)
    return Layout(
        lambda x: x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0]), lambda x: x.reshape(*sides, -1).transpose(3, 2, 0, 1)
    )
