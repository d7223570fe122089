"""Training of encoders and language models: modules with a loss of their own over batches of fixed shape.

The loss is written over the whole batch. On several devices the batch is spread over its leading axis and the compiler moves
what a loss needs from elsewhere, so that the other rows' positives serve as negatives wherever they were computed.
"""

import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float

from unisc.data.pipeline import iterate
from unisc.errors import InputError
from unisc.mesh import make_mesh, place, sharding
from unisc.models.counts import ParamCount
from unisc.nn.recompute import recomputing
from unisc.train import loop
from unisc.train import state as train_state
from unisc.train.checkpoint import Counts
from unisc.train.loop import Runtime, Task
from unisc.train.optimizers import DENSE_OPTIMIZERS, DenseOptimizer, dense_optimizer, is_decayed
from unisc.train.schedule import Decay, check_settings, rate_at
from unisc.train.state import TableOptimizer, TrainState, layout, read_rows, update_rows
from unisc.train.step import ComputeType, narrow

Loss = Callable[[nnx.Module, Any, Any, Any], tuple[Float[Array, ""], dict[str, Float[Array, ""]]]]
"""`loss(model, rows, batch, shared)` is what is minimised, and parts of it by name for the log."""
ROWS = "unique_rows"


class Batches(Protocol):
    """Batches by their number: named tuples of arrays of fixed shapes, which depend on `identity` and the number alone.

    Every array has the batch as its leading axis, but one: `unique_rows` (U,) are rows of the table, padded with a number
    past its end.
    """

    identity: str
    batch_size: int

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderTrainConfig:
    """What decides the numbers of a run, model, loss and data aside; the schedule is that of `unisc.train.ranking`.

    `table_learning_rate` is for the rows of a table beside the model, where it has one. The model runs in `compute`; what is
    kept stays float32.
    """

    batch_size: int
    learning_rate: float
    weight_decay: float
    seed: int
    num_epochs: int = 1
    warmup_frac: float = 0.05
    final_frac: float = 0.0
    decay: Decay = "cosine"
    optimizer: DenseOptimizer = "adam"
    clip_norm: float = 1.0
    compute: ComputeType = "float32"
    remat: bool = False
    table_learning_rate: float = 0.0
    table_optimizer: TableOptimizer = "adagrad"
    table_init_std: float = 0.05

    def __post_init__(self) -> None:
        if self.optimizer not in DENSE_OPTIMIZERS:
            raise InputError(f"optimizer {self.optimizer!r}: unknown; give one of {', '.join(DENSE_OPTIMIZERS)}")
        at_least = {"batch_size": 1, "num_epochs": 1, "seed": 0, "learning_rate": 0, "weight_decay": 0, "clip_norm": 0}
        at_least |= {"table_learning_rate": 0, "table_init_std": 0}
        check_settings(self, shares=("warmup_frac", "final_frac"), at_least=at_least)

    def hyper_at(self, step: int, num_steps: int) -> tuple[float, float, float]:
        """Return a step's rate, the table's rate, and the decay; steps count from 0."""
        factor = rate_at(step, num_steps, warmup_frac=self.warmup_frac, final_frac=self.final_frac, decay=self.decay)
        return factor * self.learning_rate, factor * self.table_learning_rate, self.weight_decay


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderResult:
    """A trained module, the state with its table, what the run consumed, and its last step's loss."""

    model: nnx.Module
    state: TrainState
    counts: Counts
    num_steps: int
    compile_secs: float
    loss: float

    def record(
        self, metrics: Mapping[str, float], *, params: ParamCount, train_flops: int, began: float, **counts: int
    ) -> dict[str, Any]:
        """Return what a run leaves: its metrics, counts of parameters and of what it consumed, and seconds since `began`."""
        return {
            "metrics": {**metrics, "train/loss": self.loss},
            "counts": {
                "num_params_dense": params.dense,
                "num_params_embedding": params.embedding,
                "num_params_active": params.active,
                "num_examples": self.counts.num_examples,
                "num_steps": self.counts.num_steps,
                "train_flops": train_flops,
                **counts,
            },
            "timing": {
                "compile_secs": self.compile_secs,
                "train_secs": self.counts.train_secs,
                "wall_seconds": time.perf_counter() - began,
            },
        }


class EncoderMetrics(NamedTuple):
    """What a step reports, left on the device until the loop asks."""

    loss: Float[Array, ""]
    parts: dict[str, Float[Array, ""]]
    grad_norm: Float[Array, ""]

    def report(self) -> dict[str, float]:
        """Return the step's line of the log, waiting for it."""
        parts = {f"train/{name}": float(value) for name, value in self.parts.items()}
        return {"train/loss": float(self.loss), **parts, "train/grad_norm": float(self.grad_norm)}


def train_encoder(
    model: nnx.Module,
    source: Batches,
    config: EncoderTrainConfig,
    *,
    loss: Loss,
    shared: Any = None,
    num_rows: int = 0,
    embed_dim: int = 1,
    runtime: Runtime | None = None,
) -> EncoderResult:
    """Train `model` on all batches of `source`, resuming where a checkpoint stands.

    `shared` is a tree of arrays that every step reads and none changes. With `num_rows` a table (num_rows, embed_dim) stands
    beside the model: the loss is given those rows that a batch names in `unique_rows`, and these alone are updated; without,
    it is given None. Variables of the model that are no `nnx.Param` are not trained.

    Raises:
      Stopped, DivergedError: as `unisc.train.loop.run`.
      InputError: the directory holds another run's checkpoint, or the devices cannot share the batch out.
    """
    mesh = encoder_mesh(source.batch_size)
    graphdef = nnx.graphdef(model)
    state = train_state.create(
        model,
        num_rows=max(num_rows, 1),
        embed_dim=embed_dim,
        seed=config.seed,
        table_init_std=config.table_init_std,
        table_optimizer=config.table_optimizer,
        clip_norm=config.clip_norm,
        optimizer=config.optimizer,
    )
    first, num_steps = source[0], len(source)
    batches = _layout(mesh, type(first))
    given = place(jax.tree.map(np.asarray, shared), sharding(mesh))

    def feed(batch: Any, hyper: np.ndarray) -> tuple[Any, ...]:
        if jax.process_count() > 1:  # else the step's call moves them, and faster
            batch, hyper = place(batch, batches), place(hyper, sharding(mesh))
        return batch, hyper, given

    chosen = (config.optimizer, config.compute, config.remat)
    task = Task(
        identity=_identity(config, source, state, loss),
        state=state,
        mesh=mesh,
        batches=iterate(source),
        first=first,
        num_steps=num_steps,
        step=make_encoder_step(graphdef, loss, config.clip_norm, mesh, type(first), num_rows > 0, *chosen),
        feed=feed,
        hyper_at=lambda at: config.hyper_at(at, num_steps),
        count=functools.partial(_count, source.batch_size),
        blame=lambda batch, at: None,
    )
    done = loop.run(task, runtime or Runtime())
    return EncoderResult(
        model=nnx.merge(graphdef, nnx.State(done.state.dense), nnx.State(done.state.rest)),
        state=done.state,
        counts=done.counts,
        num_steps=num_steps,
        compile_secs=done.compile_secs,
        loss=done.loss,
    )


def encoder_mesh(batch_size: int) -> Mesh:
    """Return all devices as a mesh. Raises InputError where they cannot have an equal share of a batch each."""
    count = jax.device_count()
    if batch_size % count:
        raise InputError(f"batch_size {batch_size}: {count} devices cannot share it out; give a multiple of {count}")
    return make_mesh()


@functools.lru_cache(maxsize=32)
def make_encoder_step(
    graphdef: nnx.GraphDef,
    loss: Loss,
    clip_norm: float,
    mesh: Mesh,
    batch_type: Any,
    has_table: bool,
    optimizer_name: DenseOptimizer = "adam",
    compute: ComputeType = "float32",
    remat: bool = False,
) -> Any:
    """Return the jitted step `(state, batch, hyper, shared) -> (state, metrics)`, which takes the state's buffers over."""
    optimizer = dense_optimizer(optimizer_name, clip_norm=clip_norm)

    def step(state: TrainState, batch: Any, hyper: Float[Array, "3"], shared: Any) -> tuple[TrainState, EncoderMetrics]:
        rate, table_rate, decay = hyper
        rows = read_rows(state.table, batch.unique_rows) if has_table else None

        def loss_fn(dense: Any, rows: Any) -> tuple[Array, tuple[dict[str, Array], Any]]:
            given = (dense, rows, batch, shared)
            dense, rows, held, read = jax.tree.map(narrow, given) if compute == "bfloat16" else given
            model = nnx.merge(graphdef, nnx.State(dense), nnx.State(state.rest))
            with recomputing(remat):
                value, parts = loss(model, rows, held, read)
            return value.astype(jnp.float32), (parts, nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Param))))

        slope = jax.value_and_grad(loss_fn, argnums=(0, 1), has_aux=True)
        (value, (parts, rest)), (grads, row_grads) = slope(state.dense, rows)
        updates, moments = optimizer.update(grads, state.moments)
        dense = jax.tree.map(lambda p, u: p - rate * (u + (decay * p if is_decayed(p) else 0.0)), state.dense, updates)
        table, table_moments = state.table, state.table_moments
        if rows is not None:
            moved = (table, table_moments, batch.unique_rows, rows, row_grads)
            table, table_moments = update_rows(*moved, table_rate, state.step)
        metrics = EncoderMetrics(loss=value, parts=parts, grad_norm=optax.tree.norm(grads))
        return TrainState(state.step + 1, dense, rest, moments, table, table_moments), metrics

    states, everywhere = layout(mesh), sharding(mesh)
    inputs = (states, _layout(mesh, batch_type), everywhere, everywhere)
    return jax.jit(step, donate_argnums=0, in_shardings=inputs, out_shardings=(states, everywhere))


def _layout(mesh: Mesh, batch_type: Any) -> Any:
    return batch_type._make(sharding(mesh) if name == ROWS else sharding(mesh, "batch") for name in batch_type._fields)


def _count(batch_size: int, counts: Counts, batch: Any) -> None:
    counts.num_steps += 1
    counts.num_examples += batch_size


def _identity(config: EncoderTrainConfig, source: Batches, state: TrainState, loss: Loss) -> str:
    # A loss with settings is a frozen dataclass, which says them; a function is told by its name.
    told = repr(loss) if dataclasses.is_dataclass(loss) else getattr(loss, "__qualname__", type(loss).__qualname__)
    shapes = {jax.tree_util.keystr(path): str(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(state)}
    parts = [dataclasses.asdict(config), source.identity, len(source), shapes, told]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
