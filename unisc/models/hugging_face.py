"""Decoders to and from a Hugging Face folder: config.json, safetensors, and beside them the tokenizer's own file.

Qwen3's names and layout (kernels there are (out, in)). Tensors are read from safetensors alone: a pickle could run code.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError, safe_open
from safetensors.flax import save_file

from unisc.codec import nearest
from unisc.errors import InputError
from unisc.files import new_directory
from unisc.models.decoder import Decoder, DecoderConfig

SHARD_BYTES = 2**32
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")

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
_UNSUPPORTED = {"attention_bias": False, "use_sliding_window": False, "hidden_act": "silu"}
"""What a configuration may say only so, where it says it at all."""


def load_hf(folder: Path, *, dtype: Any = jnp.float32) -> Decoder:
    """Return the decoder of a Hugging Face folder of a Qwen3 model, its parameters as `dtype`.

    Raises:
      InputError: no such folder, another architecture, weights as pickles, or a tensor that is missing, extra or of another
        shape (named).
    """
    config = read_config(folder)
    graphdef, state = nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))
    wanted = dict(_names(config))
    found = {}
    for file, name, tensor in _tensors(folder):
        if name not in wanted:
            if name == "lm_head.weight" and config.tied:
                continue  # a copy of the embedding, which some writers store
            raise InputError(f"{file}: tensor {name} is not of this model{nearest(name, wanted)}")
        value = tensor.T if wanted[name][-1] == "kernel" else tensor
        shape = _leaf(state, wanted[name]).shape
        if value.shape != shape:
            raise InputError(
                f"{file}: tensor {name} has shape {tensor.shape}, config.json asks for another ({shape} as stored here)"
            )
        found[wanted[name]] = jnp.asarray(value, dtype)
    if missing := [name for name, path in wanted.items() if path not in found]:
        raise InputError(
            f"{folder}: tensor {missing[0]} is missing ({len(missing)} of {len(wanted)} are); give a whole checkpoint"
        )
    flat = [(path, nnx.Param(found[path])) for path, _ in nnx.to_flat_state(state)]
    return nnx.merge(graphdef, nnx.from_flat_state(flat))


def save_hf(model: Decoder, folder: Path, *, tokenizer: Path | None = None) -> None:
    """Write a decoder as a Hugging Face folder, with a copy of `tokenizer` (a tokenizer.json) beside it.

    Raises:
      InputError: the folder holds something, or cannot be written.
    """
    state = nnx.state(model, nnx.Param)
    with new_directory(folder) as aside:
        (aside / "config.json").write_text(json.dumps(_config_json(model), indent=2))
        tensors = {}
        for name, path in _names(model.config):
            value = _leaf(state, path)[...]
            tensors[name] = jnp.asarray(value.T if path[-1] == "kernel" else value)
        _write_shards(aside, tensors)
        if tokenizer is not None:
            (aside / "tokenizer.json").write_bytes(tokenizer.read_bytes())


def read_config(folder: Path) -> DecoderConfig:
    """Return the configuration in a folder's config.json. Raises InputError for another architecture or a field not there."""
    path = folder / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise InputError(f"{path}: no readable configuration; give a Hugging Face folder with config.json") from e
    if found.get("model_type") != "qwen3":
        raise InputError(f"{path}: model_type {found.get('model_type')!r}; only qwen3 is read")
    for key, value in _UNSUPPORTED.items():
        if found.get(key, value) != value:
            raise InputError(f"{path}: {key} {found[key]!r}; only {value!r} is read")
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
    return {**kind, **fields, **rope, **_UNSUPPORTED}


def _names(config: DecoderConfig) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Give every tensor's name there and its place here."""
    yield "model.embed_tokens.weight", ("embedding",)
    for layer in range(config.num_layers):
        for name, path in _LAYER.items():
            yield f"model.layers.{layer}.{name}.weight", ("blocks", layer, *path)
    yield "model.norm.weight", ("norm", "gain")
    if not config.tied:
        yield "lm_head.weight", ("head", "kernel")


def _leaf(state: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        state = state[key]
    return state


def _tensors(folder: Path) -> Iterator[tuple[Path, str, jax.Array]]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickles = sorted(path for path in folder.glob("*") if path.suffix in PICKLES)
        if pickles:
            raise InputError(f"{pickles[0]}: a pickle, which could run code, is not read; convert the weights to safetensors")
        raise InputError(f"{folder}: no *.safetensors there; give a folder that holds the weights")
    for file in files:
        try:
            with safe_open(file, framework="flax") as tensors:
                for name in tensors.keys():  # noqa: SIM118  (not a mapping)
                    yield file, name, tensors.get_tensor(name)
        except (SafetensorError, OSError) as e:
            raise InputError(f"{file}: not a whole safetensors file ({e}); copy it again") from e


def _write_shards(folder: Path, tensors: Mapping[str, jax.Array]) -> None:
    shards: list[dict[str, jax.Array]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    if len(shards) == 1:
        save_file(shards[0], folder / "model.safetensors", metadata={"format": "pt"})
        return
    place = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        place |= dict.fromkeys(shard, file)
    total = int(np.sum([tensor.nbytes for tensor in tensors.values()]))
    index = {"metadata": {"total_size": total}, "weight_map": place}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
