"""Training of rankers: their settings, their batches, and the task that the loop is given."""

from dataclasses import dataclass

import jax
from flax import nnx
from jax.sharding import Mesh

from unisc.data.blocks import Blocks
from unisc.data.columns import Columns
from unisc.data.features import FeatureSpec
from unisc.data.hashing import Collision, HashConfig, RowMap
from unisc.data.pack import BatchShape
from unisc.data.pipeline import PackedRequests, iterate, packed
from unisc.data.stream import PackedBlocks
from unisc.errors import InputError
from unisc.mesh import make_mesh
from unisc.train import loop
from unisc.train import state as train_state
from unisc.train.checkpoint import Counts
from unisc.train.loop import Runtime, Task
from unisc.train.optimizers import DENSE_OPTIMIZERS, DenseOptimizer
from unisc.train.progress import blame_of, count, run_identity
from unisc.train.schedule import Decay, check_settings, rate_at
from unisc.train.state import TableOptimizer, TableType, TrainState
from unisc.train.step import ComputeType, Hyper, make_feed, make_train_step, parts_of


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """What decides the numbers of a run, model and data aside. The horizon is `num_epochs` passes over the given requests.

    The schedule rises linearly over the first `warmup_frac` of the steps, then falls to `final_frac` of the rate; the table's
    rate follows the same shape. Labels of purchase weigh `purchase_weight` against clicks' 1. `position_dropout` is the share
    of requests trained as if no position were known (see `unisc.data.pipeline`). A batch is packed in `num_parts` parts, which
    the devices share out and work through one after the other; `list_len` is the length at which lists are cut, 0 for no cut.
    The model runs in `compute`; what is kept stays float32. Memory for activations shrinks with more parts, and with `remat`,
    which computes a model's layers again in the backward pass; both change numbers by rounding only, but a run goes on from
    its checkpoint bit by bit, so they belong to it. Models without layers of several maps (DCN-V2, DIN, DLRM) have nothing
    to compute again.
    """

    batch_candidates: int
    learning_rate: float
    table_learning_rate: float
    weight_decay: float
    purchase_weight: float
    seed: int
    num_epochs: int = 1
    warmup_frac: float = 0.05
    final_frac: float = 0.0
    decay: Decay = "cosine"
    optimizer: DenseOptimizer = "adam"
    table_optimizer: TableOptimizer = "adagrad"
    table_dtype: TableType = "float32"
    hash_rows: int = 0
    collision: Collision = "share"
    table_init_std: float = 0.05
    clip_norm: float = 1.0
    position_dropout: float = 0.1
    num_parts: int = 1
    list_len: int = 0
    compute: ComputeType = "float32"
    remat: bool = False

    def __post_init__(self) -> None:
        HashConfig(hash_rows=self.hash_rows, collision=self.collision)
        for name, known in (("optimizer", DENSE_OPTIMIZERS), ("table_dtype", ("float32", "bfloat16"))):
            if getattr(self, name) not in known:
                raise InputError(f"{name} {getattr(self, name)!r}: unknown; give one of {', '.join(known)}")
        at_least = {
            "batch_candidates": 1,
            "num_parts": 1,
            "list_len": 0,
            "num_epochs": 1,
            "seed": 0,
            "learning_rate": 0,
            "table_learning_rate": 0,
        }
        at_least |= {"weight_decay": 0, "purchase_weight": 0, "table_init_std": 0, "clip_norm": 0}
        check_settings(self, shares=("warmup_frac", "final_frac", "position_dropout"), at_least=at_least)

    def row_map(self, spec: FeatureSpec) -> RowMap:
        """Return what rewrites batches for the tables as a run stores them; a model is built for its `spec`."""
        return RowMap(spec, HashConfig(hash_rows=self.hash_rows, collision=self.collision))

    def rate_at(self, step: int, num_steps: int) -> float:
        """Return the schedule's factor of the rates for a step counted from 0."""
        return rate_at(step, num_steps, warmup_frac=self.warmup_frac, final_frac=self.final_frac, decay=self.decay)

    def hyper_at(self, step: int, num_steps: int) -> Hyper:
        """Return the settings of a step counted from 0."""
        factor = self.rate_at(step, num_steps)
        return Hyper(
            learning_rate=factor * self.learning_rate,
            table_learning_rate=factor * self.table_learning_rate,
            weight_decay=self.weight_decay,
            purchase_weight=self.purchase_weight,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """A trained model: the module with its final parameters, the embedding table, and what the run consumed."""

    model: nnx.Module
    state: TrainState
    shape: BatchShape
    counts: Counts
    num_steps: int
    compile_secs: float
    loss: float
    row_map: RowMap


def batch_shape(columns: Columns | Blocks, config: TrainConfig, *, mean_list_len: float | None = None) -> BatchShape:
    """Return the shape of a run's batches; `mean_list_len` of the data by default."""
    return BatchShape.of(
        columns.spec,
        candidates=config.batch_candidates,
        mean_list_len=mean_list_len or columns.num_examples / max(columns.num_requests, 1),
        list_len=config.list_len,
        parts=config.num_parts,
    )


def train(
    model: nnx.Module,
    columns: Columns | Blocks,
    config: TrainConfig,
    *,
    embed_dim: int,
    shape: BatchShape | None = None,
    runtime: Runtime | None = None,
) -> TrainResult:
    """Train `model`, called as `model(rows, batch) -> logits`, on all of `columns`, resuming where a checkpoint stands.

    `shape` overrides the batch shape, so that runs on parts of one data set can share one compiled program.

    Raises:
      Stopped: `runtime.should_stop` said so; called again, the run goes on from its checkpoint.
      DivergedError: the loss of a step, or a parameter that a checkpoint would hold, is not finite; the message names the step.
      InputError: the directory holds another run's checkpoint, or a feature is not a number (named with the step); the last
        checkpoint stays, and the run goes on from it once the data are right.
    """
    shape = shape or batch_shape(columns, config)
    mesh = train_mesh(shape.parts)
    graphdef = nnx.graphdef(model)
    source, row_map, state = begin(model, columns, config, embed_dim=embed_dim, shape=shape)
    num_steps, to_devices = len(source), make_feed(mesh)
    task = Task(
        identity=run_identity(config, columns, shape, state),
        state=state,
        mesh=mesh,
        batches=iterate(source, row_map=row_map),
        first=row_map(source[0]),
        num_steps=num_steps,
        step=make_train_step(graphdef, config.clip_norm, mesh, config.optimizer, config.compute, config.remat),
        feed=lambda batch, hyper: to_devices(parts_of(batch, shape.parts), hyper),
        hyper_at=lambda step: config.hyper_at(step, num_steps),
        count=count,
        blame=blame_of(columns),
    )
    done = loop.run(task, runtime or Runtime())
    return TrainResult(
        model=nnx.merge(graphdef, nnx.State(done.state.dense), nnx.State(done.state.rest)),
        state=done.state,
        shape=shape,
        counts=done.counts,
        num_steps=num_steps,
        compile_secs=done.compile_secs,
        loss=done.loss,
        row_map=row_map,
    )


def begin(
    model: nnx.Module, columns: Columns | Blocks, config: TrainConfig, *, embed_dim: int, shape: BatchShape
) -> tuple[PackedRequests | PackedBlocks, RowMap, TrainState]:
    """Return what a run starts from: its batches, where their rows are stored, and the first state, not yet on any mesh."""
    source = packed(columns, shape, seed=config.seed, num_epochs=config.num_epochs, position_dropout=config.position_dropout)
    row_map = config.row_map(columns.spec)
    if getattr(model, "spec", row_map.spec) != row_map.spec:
        raise InputError(
            "model: built for other features than the data's as stored; build it for config.row_map(data.spec).spec"
        )
    state = train_state.create(
        model,
        num_rows=row_map.spec.num_rows,
        embed_dim=embed_dim,
        seed=config.seed,
        table_init_std=config.table_init_std,
        table_optimizer=config.table_optimizer,
        clip_norm=config.clip_norm,
        optimizer=config.optimizer,
        table_dtype=config.table_dtype,
    )
    return source, row_map, state


def train_mesh(num_parts: int) -> Mesh:
    """Return the devices that share the parts of a batch: all, or one alone if there is but one part.

    Raises:
      InputError: the devices cannot have an equal number of parts each.
    """
    count = jax.device_count()
    if num_parts == 1 and jax.process_count() == 1:
        return make_mesh(devices=jax.devices()[:1])
    if num_parts % count:
        alone = ", or 1" if jax.process_count() == 1 else ""
        raise InputError(f"num_parts {num_parts}: {count} devices cannot share them out; give a multiple of {count}{alone}")
    return make_mesh()
