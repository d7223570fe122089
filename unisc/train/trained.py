"""A trained ranker as one file, `model.npz`: its parameters, its table, and what one must know to score with it.

Nothing but arrays and JSON is stored, so that reading a file runs no code of its maker's.
"""

import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from unisc.config import from_json, to_json
from unisc.data import manifest
from unisc.data.encode import ENCODING_VERSION
from unisc.data.features import FeatureSpec
from unisc.data.hashing import Collision, HashConfig, RowMap
from unisc.distributed import is_first
from unisc.errors import InputError
from unisc.files import explained
from unisc.models import zoo
from unisc.train.ranking import TrainConfig, TrainResult
from unisc.train.state import TrainState

NAME = "model.npz"
_ABOUT, _TABLE = "about", "table"


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """What a ranker is and what it was trained on: `samples` and `logs` are fingerprints, `logs` empty where none is named.

    `spec` are the features as the data has them, before any hashing; `list_len` is the length at which lists are cut for
    scoring, 0 for no cut; `past_len` and `past_max_age` say how much history the samples kept (see `ES3Config`).
    """

    model: zoo.RankerConfig
    spec: FeatureSpec
    encoding: int
    hash_rows: int
    collision: Collision
    list_len: int
    past_len: int
    past_max_age: int
    samples: str
    logs: str
    composition: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A ranker ready to score: the module in evaluation mode, the table (rows, E), and where a batch's rows are stored."""

    about: About
    model: nnx.Module
    table: Float[Array, "V E"]
    row_map: RowMap


def save_model(
    directory: Path, trained: TrainResult, *, model: zoo.RankerConfig, train: TrainConfig, list_len: int, samples: Path
) -> None:
    """Write the trained ranker into `directory`; `samples` is what it was trained on, `list_len` that of its evaluation.

    Of several processes the first does.
    """
    if not is_first():
        return
    made = manifest.read(samples, kind="samples")
    about = About(
        model=model,
        spec=trained.row_map.whole,
        encoding=ENCODING_VERSION,
        hash_rows=train.hash_rows,
        collision=train.collision,
        list_len=list_len,
        past_len=made["config"].get("history_len", trained.row_map.whole.history_len),
        past_max_age=made["config"].get("history_max_age", 0),
        samples=made["fingerprint"],
        logs=made.get("logs", ""),
        composition=made.get("composition", ""),
    )
    arrays = {_ABOUT: np.array(to_json(about)), _TABLE: np.asarray(trained.state.table, np.float32)}
    arrays |= {name: np.asarray(value) for name, value in _named(_plain(trained.state)).items()}
    path = directory / NAME
    with explained(path):
        aside = path.with_name(f".{NAME}.{os.getpid()}.tmp")
        with aside.open("wb") as f:
            np.savez(f, allow_pickle=False, **arrays)
        aside.replace(path)


def model_file(directory: Path) -> Path:
    """Return the file of the ranker that `unisc train` left in a folder, or a sweep in a run's folder.

    Raises:
      InputError: there is none.
    """
    for path in (directory / NAME, directory / "work" / NAME):
        if path.is_file():
            return path
    raise InputError(
        f"{directory}: holds no trained ranker ({NAME}); give a folder that `unisc train` or a sweep's run (runs/<id>) left"
    )


def read_about(directory: Path) -> About:
    """Return what a folder's ranker is, without its parameters. Raises InputError as `load_model`."""
    return _about(model_file(directory), _read(model_file(directory), (_ABOUT,)))


def load_model(directory: Path) -> Trained:
    """Return the ranker that `save_model` wrote into a folder, or into the `work` folder of a sweep's run.

    Raises:
      InputError: no ranker there, a damaged file, or one of another version of the encoding or of the model's code.
    """
    path = model_file(directory)
    arrays = _read(path)
    about = _about(path, arrays)
    row_map = RowMap(about.spec, HashConfig(hash_rows=about.hash_rows, collision=about.collision))
    model = zoo.build(about.model, row_map.spec, rngs=nnx.Rngs(0))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    like = {"dense": nnx.to_pure_dict(params), "rest": nnx.to_pure_dict(rest)}
    wanted = _named(like)
    if {name for name in arrays if name not in (_ABOUT, _TABLE)} != wanted.keys():
        raise InputError(f"{path}: parameters of another version of its model; train the ranker again")
    leaves = []
    for name, now in wanted.items():
        found = arrays[name]
        key = jnp.issubdtype(now.dtype, jax.dtypes.prng_key)
        if found.shape != (jax.random.key_data(now).shape if key else now.shape):
            raise InputError(f"{path}: {name} has shape {found.shape}; train the ranker again")
        value = jnp.asarray(found)
        leaves.append(jax.random.wrap_key_data(value, impl=jax.random.key_impl(now)) if key else value.astype(now.dtype))
    filled = jax.tree.unflatten(jax.tree.structure(like), leaves)
    model = nnx.merge(graphdef, nnx.State(filled["dense"]), nnx.State(filled["rest"]))
    model.eval()
    return Trained(about=about, model=model, table=jnp.asarray(arrays[_TABLE]), row_map=row_map)


def _plain(state: TrainState) -> dict[str, Any]:
    def data(x: Any) -> Any:
        return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x

    return jax.tree.map(data, {"dense": state.dense, "rest": state.rest})


def _named(tree: dict[str, Any]) -> dict[str, Any]:
    return {"/".join(str(k.key) for k in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _read(path: Path, names: tuple[str, ...] | None = None) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in names or file.files}
    except (ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile) as e:
        raise InputError(f"{path}: not a readable ranker ({type(e).__name__}); train it again") from e


def _about(path: Path, arrays: dict[str, np.ndarray]) -> About:
    if _ABOUT not in arrays:
        raise InputError(f"{path}: not a readable ranker; train it again")
    text = str(arrays[_ABOUT])
    try:
        version = json.loads(text)["encoding"]
        about = from_json(About, text)
    except (InputError, ValueError, LookupError, TypeError) as e:
        raise InputError(f"{path}: a ranker of another version of this program; train it again") from e
    if version != ENCODING_VERSION:
        raise InputError(
            f"{path}: trained on features of encoding {version}, this program has {ENCODING_VERSION}; train it again"
        )
    return about
