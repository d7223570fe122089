"""Decoders to and from a folder of a Qwen3 model, and beside them the tokenizer's own file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import nnx

from unisc.errors import InputError
from unisc.models.decoder import Decoder, DecoderConfig
from unisc.models.hugging_face.folder import Place, check_only, load, parameters, read_json, save

_FIELDS = {
    "vocab_size": "vocab_size",
    "dim": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "ffn_hidden": "intermediate_size",
    "norm_eps": "rms_norm_eps",
    "tied": "tie_word_embeddings",
    "max_len": "max_position_embeddings",
}
_LAYER = {
    "self_attn.q_proj": ("attention", "query", "kernel"),
    "self_attn.k_proj": ("attention", "key", "kernel"),
    "self_attn.v_proj": ("attention", "value", "kernel"),
    "self_attn.o_proj": ("attention", "out", "kernel"),
    "self_attn.q_norm": ("attention", "query_norm", "gain"),
    "self_attn.k_norm": ("attention", "key_norm", "gain"),
    "mlp.gate_proj": ("gate", "kernel"),
    "mlp.up_proj": ("up", "kernel"),
    "mlp.down_proj": ("down", "kernel"),
    "input_layernorm": ("attention_norm", "gain"),
    "post_attention_layernorm": ("ffn_norm", "gain"),
}
_ONLY = {"attention_bias": False, "use_sliding_window": False, "hidden_act": "silu"}


def load_hf(folder: Path, *, dtype: Any = jnp.float32) -> Decoder:
    """Return the decoder of a Hugging Face folder of a Qwen3 model, its parameters as `dtype`.

    Raises:
      InputError: no such folder, another architecture, weights as pickles, or a tensor that is missing, extra or of another
        shape (named).
    """
    config = read_config(folder)

    def rename(name: str) -> str | None:
        return None if config.tied and name == "lm_head.weight" else name  # a copy of the embedding, which some writers store

    return load(folder, lambda: Decoder(config, rngs=nnx.Rngs(0)), dict(_places(config)), dtype=dtype, rename=rename)


def save_hf(model: Decoder, folder: Path, *, tokenizer: Path | None = None) -> None:
    """Write a decoder as a Hugging Face folder, with a copy of `tokenizer` (a tokenizer.json) beside it.

    Raises:
      InputError: the folder holds something, or cannot be written.
    """
    copies = {} if tokenizer is None else {"tokenizer.json": tokenizer}
    save(model, folder, dict(_places(model.config)), _config_json(model), copies)


def read_config(folder: Path) -> DecoderConfig:
    """Return the configuration in a folder's config.json. Raises InputError for another architecture or a field not there."""
    path, found = read_json(folder)
    if found.get("model_type") != "qwen3":
        raise InputError(f"{path}: model_type {found.get('model_type')!r}; only qwen3 is read")
    check_only(path, found, _ONLY)
    if missing := [key for key in _FIELDS.values() if key not in found]:
        raise InputError(f"{path}: no {missing[0]}; give a whole Qwen3 configuration")
    # Newer writers keep the rotary base in a table of its own.
    rope = found.get("rope_parameters") or found.get("rope_scaling") or {}
    if rope.get("rope_type", "default") != "default":
        raise InputError(f"{path}: rope_type {rope['rope_type']!r}; only 'default' is read")
    theta = rope.get("rope_theta", found.get("rope_theta"))
    if theta is None:
        raise InputError(f"{path}: no rope_theta; give a whole Qwen3 configuration")
    return DecoderConfig(**{name: found[key] for name, key in _FIELDS.items()}, rope_theta=float(theta))


def _config_json(model: Decoder) -> dict[str, Any]:
    config = model.config
    fields = {key: getattr(config, name) for name, key in _FIELDS.items()}
    rope = {"rope_theta": config.rope_theta, "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta}}
    kind = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "torch_dtype": str(model.embedding[...].dtype)}
    return {**kind, **fields, **rope, **_ONLY}


def _places(config: DecoderConfig) -> Iterator[tuple[str, Place]]:
    """Give every tensor's name there and its place here."""
    yield "model.embed_tokens.weight", Place(("embedding",))
    for layer in range(config.num_layers):
        for name, (*path, kind) in _LAYER.items():
            yield from parameters(f"model.layers.{layer}.{name}", ("blocks", layer, *path), kind)
    yield from parameters("model.norm", ("norm",), "gain")
    if not config.tied:
        yield from parameters("lm_head", ("head",), "kernel")
