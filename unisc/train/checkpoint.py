"""Checkpoints by Orbax: the state, and beside it the place in the data, the counters and the clock."""

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from unisc.errors import InputError
from unisc.train.state import TrainState


@dataclass(kw_only=True, slots=True)
class Counts:
    """What a run has consumed, counted as it happens.

    `num_examples` are candidates with a weight; `train_secs` is time in steps, without compilation, checkpoints and evaluation.
    """

    num_steps: int = 0
    num_requests: int = 0
    num_examples: int = 0
    num_positives: int = 0
    train_secs: float = 0.0


class Saved(NamedTuple):
    """What a checkpoint holds: the state, the counters with the clock, the place in the data, and the last step's loss."""

    state: TrainState
    counts: Counts
    data_state: dict[str, Any]
    loss: float


class Checkpoints:
    """Keeps the last checkpoint of a run in `directory`. `identity` says which run it belongs to; another's is refused.

    Of several processes all make, save, restore and close it, over one folder that they share; each writes its devices' rows of
    the table. Where the rows lie is not kept, so that another number of processes or devices may go on.
    """

    def __init__(self, directory: Path, *, identity: str):
        logging.getLogger("absl").setLevel(logging.WARNING)  # one save logs a screenful
        self._identity = identity
        self._manager = ocp.CheckpointManager(
            directory.resolve(),
            item_names=("state", "progress"),
            options=ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False, cleanup_tmp_directories=True),
        )

    def save(self, saved: Saved) -> None:
        """Write a checkpoint; it exists once complete."""
        progress = {"identity": self._identity, "counts": dataclasses.asdict(saved.counts), "data": saved.data_state}
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(without_keys(saved.state)),
            progress=ocp.args.JsonSave(progress | {"loss": saved.loss}),
        )
        self._manager.save(saved.counts.num_steps, args=args)

    def restore(self, state: TrainState) -> Saved | None:
        """Return the last checkpoint, or None if there is none; `state` gives the shapes.

        Raises:
          InputError: the checkpoint is of another run.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        progress = self._manager.restore(step, args=ocp.args.Composite(progress=ocp.args.JsonRestore()))["progress"]
        if progress["identity"] != self._identity:
            raise InputError(
                f"{self._manager.directory}: holds the checkpoint of another run (or other num_parts); give an empty directory"
            )
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, without_keys(state))
        saved = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(shapes)))["state"]
        return Saved(with_keys(saved, state), Counts(**progress["counts"]), progress["data"], progress["loss"])

    def close(self) -> None:
        """Release the manager's threads."""
        self._manager.close()


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def without_keys(state: TrainState) -> TrainState:
    """Return a state with its random keys as the integers they hold."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x, state)


def with_keys(saved: TrainState, like: TrainState) -> TrainState:
    """Undo `without_keys`; `like` says which integers are keys, and of which kind."""
    return jax.tree.map(lambda s, x: jax.random.wrap_key_data(s, impl=jax.random.key_impl(x)) if _is_key(x) else s, saved, like)
