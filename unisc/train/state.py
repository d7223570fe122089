"""What a step changes: dense parameters, and one fused embedding table with an optimiser that is sparse by rows."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from unisc.mesh import sharding
from unisc.nn.tables import to_store
from unisc.train.optimizers import ADAGRAD_EPS, ADAM_B1, ADAM_B2, ADAM_EPS, DenseOptimizer, dense_optimizer

TableOptimizer = Literal["adagrad", "adam"]
TableType = Literal["float32", "bfloat16"]

TABLE_STREAM = 1
ROW_MULTIPLE = 64
"""Rows of a table are padded to a multiple of this, and it of the number of devices a table can be spread over."""


class TrainState(NamedTuple):
    """Everything a step reads and writes; plain containers, since their flattening is on every step's path.

    `dense` are the model's parameters and `rest` its other variables (dropout keys, say) as nested dictionaries, `moments` the
    state of its optimiser. `table` is (rows, E); `table_moments` are per row: (rows,) sums for Adagrad; m, v and touches
    for Adam.
    """

    step: Int[Array, ""]
    dense: dict[Any, Any]
    rest: dict[Any, Any]
    moments: optax.OptState
    table: Float[Array, "V E"]
    table_moments: dict[str, Array]


def create(
    model: nnx.Module,
    *,
    num_rows: int,
    embed_dim: int,
    seed: int,
    table_init_std: float,
    table_optimizer: TableOptimizer,
    clip_norm: float,
    optimizer: DenseOptimizer = "adam",
    table_dtype: TableType = "float32",
) -> TrainState:
    """Start a run from a model's initial parameters and a table drawn by `seed`, normal with deviation `table_init_std`.

    The table has rows of zeros at its end, up to a multiple of ROW_MULTIPLE, so that it divides among the devices.
    """
    _, params, rest = nnx.split(model, nnx.Param, ...)
    # Copied, since the step gives its state's buffers away while the caller keeps the model.
    dense = jax.tree.map(jnp.copy, nnx.to_pure_dict(params))
    # Drawn by numpy: nothing to compile, and a sweep starts hundreds of runs.
    draws = np.random.default_rng([seed, TABLE_STREAM]).standard_normal((num_rows, embed_dim), np.float32)
    draws = np.concatenate([draws, np.zeros((-num_rows % ROW_MULTIPLE, embed_dim), np.float32)])
    per_row, per_value = np.zeros(len(draws), np.float32), np.zeros_like(draws)
    moments = {"sum": per_row} if table_optimizer == "adagrad" else {"m": per_value, "v": per_value, "touches": per_row}
    return TrainState(
        step=jnp.asarray(np.int32(0)),
        dense=dense,
        rest=jax.tree.map(jnp.copy, nnx.to_pure_dict(rest)),
        moments=dense_optimizer(optimizer, clip_norm=clip_norm).init(dense),
        table=jnp.array(np.float32(table_init_std) * draws, table_dtype),
        table_moments={name: jnp.array(zeros) for name, zeros in moments.items()},
    )


def layout(mesh: Mesh) -> TrainState:
    """Return the sharding of each part of a state: the table and its moments by rows over all devices, the rest on each."""
    everywhere, by_row = sharding(mesh), sharding(mesh, "row")
    return TrainState._make(by_row if name.startswith("table") else everywhere for name in TrainState._fields)


def read_rows(table: Float[Array, "V E"], unique_rows: Int[Array, "U"]) -> Float[Array, "U E"]:
    """Read the rows a batch touches, as float32; padding reads 0."""
    return table.at[unique_rows].get(mode="fill", fill_value=0, wrap_negative_indices=False).astype(jnp.float32)


def update_rows(
    table: Float[Array, "V E"],
    moments: dict[str, Array],
    unique_rows: Int[Array, "U"],
    rows: Float[Array, "U E"],
    grads: Float[Array, "U E"],
    rate: Float[Array, ""],
    salt: Int[Array, ""] | int = 0,
) -> tuple[Float[Array, "V E"], dict[str, Array]]:
    """Step the touched rows, at a cost of rows touched: row-wise Adagrad, or Adam whose bias correction counts a row's touches.

    Other rows keep their values and moments: this is not the optimiser that dense Adam is on the same table. A row that the
    batch names without a gradient (its candidates have no weight) is left alone too. Moments are float32; a table of bfloat16
    is written with random rounding, drawn by `salt` (`unisc.nn.tables.to_store`).
    """
    out, touched = {}, jnp.any(grads != 0, axis=-1)
    if "sum" in moments:
        total = moments["sum"].at[unique_rows].get(mode="fill", fill_value=0, wrap_negative_indices=False) + jnp.mean(
            jnp.square(grads), axis=-1
        )
        out["sum"] = moments["sum"].at[unique_rows].set(total, mode="drop", wrap_negative_indices=False)
        delta = grads * jax.lax.rsqrt(total + ADAGRAD_EPS**2)[:, None]
    else:
        m, v, touches = (
            moments[k].at[unique_rows].get(mode="fill", fill_value=0, wrap_negative_indices=False)
            for k in ("m", "v", "touches")
        )
        keep = touched[:, None]
        m = jnp.where(keep, ADAM_B1 * m + (1 - ADAM_B1) * grads, m)
        v = jnp.where(keep, ADAM_B2 * v + (1 - ADAM_B2) * jnp.square(grads), v)
        touches = touches + touched
        age = jnp.maximum(touches, 1.0)[:, None]
        delta = (m / (1 - ADAM_B1**age)) / (jnp.sqrt(v / (1 - ADAM_B2**age)) + ADAM_EPS)
        delta = jnp.where(keep, delta, 0.0)
        for name, value in (("m", m), ("v", v), ("touches", touches)):
            out[name] = moments[name].at[unique_rows].set(value, mode="drop", wrap_negative_indices=False)
    stored = to_store(rows - rate * delta, table.dtype, salt)
    return table.at[unique_rows].set(stored, mode="drop", wrap_negative_indices=False), out


def streams_of_part(rest: dict[Any, Any], first: dict[Any, Any], part: Int[Array, ""] | None) -> dict[Any, Any]:
    """Return `rest` with its streams of random numbers as they begin a part of a step; `first` holds those of the step's start.

    A part of the batch draws by its own key, so that draws hang on the part and not on which device has it. With None the keys
    are again those of `first`, and the counts what they have come to: as after one part, however many there were.
    """
    if not isinstance(rest, dict):
        return rest
    if rest.keys() >= {"key", "count"}:  # nnx.RngStream
        if part is None:
            return {**rest, "key": first["key"]}
        return {**rest, "key": jax.random.fold_in(first["key"], part), "count": first["count"]}
    return {name: streams_of_part(value, first[name], part) for name, value in rest.items()}
