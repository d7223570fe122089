"""What all architectures share of a Hugging Face folder: config.json, tensors in safetensors, and errors that name them.

Tensors are read from safetensors alone: a pickle could run code.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from safetensors import SafetensorError, safe_open
from safetensors.flax import save_file

from unisc.codec import nearest
from unisc.errors import InputError
from unisc.files import new_directory

SHARD_BYTES = 2**32
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")

M = TypeVar("M", bound=nnx.Module)


class Layout(NamedTuple):
    """How a tensor there becomes the parameter here, and back."""

    read: Callable[[jax.Array], jax.Array]
    write: Callable[[jax.Array], jax.Array]


SAME = Layout(lambda x: x, lambda x: x)
TRANSPOSED = Layout(jnp.transpose, jnp.transpose)
"""Kernels are (out, in) there, (in, out) here."""


class Place(NamedTuple):
    """Where a tensor belongs in a model's tree."""

    path: tuple[Any, ...]
    layout: Layout = SAME


def parameters(there: str, here: tuple[str | int, ...], kinds: str) -> Iterator[tuple[str, Place]]:
    """Give the tensors of one module there: of "kernel bias" `there`.weight, turned, and `there`.bias; of "gain" its weight."""
    for kind in kinds.split():
        layout = TRANSPOSED if kind == "kernel" else SAME
        yield f"{there}.{'bias' if kind == 'bias' else 'weight'}", Place((*here, kind), layout)


def read_json(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Return the path of a folder's config.json and what it holds. Raises InputError where there is none that can be read."""
    path = folder / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise InputError(f"{path}: no readable configuration; give a Hugging Face folder with config.json") from e
    if not isinstance(found, dict):
        raise InputError(f"{path}: not a table of fields; give a Hugging Face folder with config.json")
    return path, found


def check_only(path: Path, found: Mapping[str, Any], only: Mapping[str, Any]) -> None:
    """Check what a configuration may say in one way only, where it says it at all. Raises InputError for another way."""
    for key, value in only.items():
        if found.get(key, value) != value:
            raise InputError(f"{path}: {key} {found[key]!r}; only {value!r} is read")


def load(
    folder: Path,
    make: Callable[[], M],
    places: Mapping[str, Place],
    *,
    dtype: Any,
    rename: Callable[[str], str | None] = lambda name: name,
) -> M:
    """Return the model that `make` makes with a folder's tensors as its parameters, of `dtype`.

    `rename` gives the name in `places` of a tensor of the folder, or None for one that is left out.

    Raises:
      InputError: no weights, weights as pickles, or a tensor that is missing, extra, twice there or of another shape (named).
    """
    graphdef, state = nnx.split(nnx.eval_shape(make))
    found: dict[Any, jax.Array] = {}
    for file, stored, read in _tensors(folder):
        name = rename(stored)
        if name is None:
            continue
        if name not in places:
            raise InputError(f"{file}: tensor {stored} is not of this model{nearest(name, places)}")
        path, layout = places[name]
        if path in found:
            raise InputError(f"{file}: tensor {stored} is there a second time; remove the copy")
        tensor = read()
        shape = jax.eval_shape(layout.write, _leaf(state, path)).shape
        if tensor.shape != shape:
            raise InputError(
                f"{file}: tensor {stored} has shape {tensor.shape}, config.json asks for {shape}; give both of one model"
            )
        found[path] = jnp.asarray(layout.read(tensor), dtype)
    if missing := [name for name, place in places.items() if place.path not in found]:
        raise InputError(
            f"{folder}: tensor {missing[0]} is missing ({len(missing)} of {len(places)} are); give a whole checkpoint"
        )
    flat = [(path, nnx.Param(found[path])) for path, _ in nnx.to_flat_state(state)]
    return nnx.merge(graphdef, nnx.from_flat_state(flat))


def save(
    model: nnx.Module, folder: Path, places: Mapping[str, Place], config: Mapping[str, Any], copies: Mapping[str, Path]
) -> None:
    """Write a folder of `config`, the model's parameters and copies of other files, by their names in it.

    Raises:
      InputError: the folder holds something, or cannot be written.
    """
    state = nnx.state(model, nnx.Param)
    with new_directory(folder) as aside:
        (aside / "config.json").write_text(json.dumps(config, indent=2))
        tensors = {name: jnp.asarray(layout.write(_leaf(state, path)[...])) for name, (path, layout) in places.items()}
        _write_shards(aside, tensors)
        for name, path in copies.items():
            (aside / name).write_bytes(path.read_bytes())


def _leaf(state: Any, path: tuple[str | int, ...]) -> Any:
    for key in path:
        state = state[key]
    return state


def _tensors(folder: Path) -> Iterator[tuple[Path, str, Callable[[], jax.Array]]]:
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
                    yield file, name, lambda name=name: tensors.get_tensor(name)
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
    index = {"metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())}, "weight_map": place}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
