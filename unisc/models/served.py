"""A trained KARMA as a folder, for whoever serves it: `model/` in safetensors, without the heads, and the items' features.

The features are those of the pretrained language model, which the trained decoder no longer is; an item that is new needs them
made the same way (`unisc.train.interests.text_features`).
"""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float32

from unisc.config import from_plain, to_plain
from unisc.errors import InputError
from unisc.files import new_directory
from unisc.models.hugging_face import folder as folders
from unisc.models.hugging_face.folder import Place
from unisc.models.karma import Karma, KarmaConfig
from unisc.nn.frozen import thaw

MODEL_TYPE, FEATURES = "karma", "features.npy"


def save_karma(model: Karma, out: Path, *, features: Float32[np.ndarray, "I F"]) -> None:
    """Write the serving part and the catalogue's features. Raises InputError if the folder holds something."""
    plain = nnx.clone(model)
    thaw(plain)
    with new_directory(out) as aside:
        config = {"model_type": MODEL_TYPE, **to_plain(model.config)}
        folders.save(plain, aside / "model", _places(model.config), config, {})
        np.save(aside / FEATURES, features, allow_pickle=False)


def load_karma(folder: Path) -> tuple[Karma, Float32[np.ndarray, "I F"]]:
    """Return the model and the features of the items it was trained with.

    Raises:
      InputError: no such folder, another model, tensors that are missing, extra or of another shape, or no features.
    """
    path, found = folders.read_json(folder / "model")
    if found.pop("model_type", None) != MODEL_TYPE:
        raise InputError(f"{path}: not of a KARMA model; give a folder that `save_karma` wrote")
    config = from_plain(KarmaConfig, found)
    model = folders.load(folder / "model", lambda: Karma(config, rngs=nnx.Rngs(0)), _places(config), dtype=jnp.float32)
    try:
        features = np.load(folder / FEATURES, allow_pickle=False)
    except (OSError, ValueError) as e:
        raise InputError(f"{folder / FEATURES}: no readable features; save the model again") from e
    if features.ndim != 2 or features.shape[1] != config.feature_dim:
        raise InputError(f"{folder / FEATURES}: of shape {features.shape}; the model reads {config.feature_dim} an item")
    return model, features


def _places(config: KarmaConfig) -> dict[str, Place]:
    state = nnx.state(nnx.eval_shape(lambda: Karma(config, rngs=nnx.Rngs(0))), nnx.Param)
    return {".".join(map(str, path)): Place(path) for path, _ in nnx.to_flat_state(state)}
