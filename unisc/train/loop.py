"""The training loop. The order of its statements is the contract; nothing is hidden behind hooks."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from unisc.data.blocks import Blocks
from unisc.data.columns import Columns
from unisc.data.features import FeatureSpec
from unisc.data.hashing import Collision, HashConfig, RowMap
from unisc.data.pack import BatchShape
from unisc.data.pipeline import PackedRequests, iterate, packed
from unisc.data.stream import PackedBlocks
from unisc.distributed import agree, is_first, told_by_any
from unisc.errors import InputError, Stopped
from unisc.mesh import collect, make_mesh, place
from unisc.train import state as train_state
from unisc.train.checkpoint import Checkpoints, Counts, Saved
from unisc.train.finite import all_finite
from unisc.train.logger import MetricsLogger
from unisc.train.optimizers import DENSE_OPTIMIZERS, DenseOptimizer
from unisc.train.progress import Clock, Pending, count, digest, diverged, rates, run_identity
from unisc.train.state import TableOptimizer, TableType, TrainState, layout
from unisc.train.step import ComputeType, Hyper, compiled, make_feed, make_train_step, parts_of


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
    decay: Literal["cosine", "linear", "constant"] = "cosine"
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
        for name in ("warmup_frac", "final_frac", "position_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} {getattr(self, name)}: give a number from 0 to 1")
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
        for name, least in at_least.items():
            if not least <= getattr(self, name) < math.inf:
                raise InputError(f"{name} {getattr(self, name)}: give a number of at least {least}")

    def row_map(self, spec: FeatureSpec) -> RowMap:
        """Return what rewrites batches for the tables as a run stores them; a model is built for its `spec`."""
        return RowMap(spec, HashConfig(hash_rows=self.hash_rows, collision=self.collision))

    def rate_at(self, step: int, num_steps: int) -> float:
        """Return the schedule's factor of the rates for a step counted from 0."""
        warmup = math.ceil(self.warmup_frac * num_steps)
        if step < warmup:
            return (step + 1) / warmup
        done = (step - warmup) / max(num_steps - warmup, 1)
        shape = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}[self.decay]
        return self.final_frac + (1 - self.final_frac) * shape

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
class Runtime:
    """Where and how a run happens; none of it changes a number.

    `directory` receives `metrics.jsonl` and `checkpoint/`; without one nothing is written. 0 checkpoint steps
    save none. `on_step` sees the counts after every step: progress, heartbeats, budgets. `should_stop` is asked after every
    step; a run told to stop saves a checkpoint, if it saves any, and raises `Stopped`. `flops_of(candidates, requests)`, the
    arithmetic of training on them, puts the rate at which it is done into the log, and its share of what the devices can do
    where that is known. With `profile` the eleventh to the fifteenth step are traced into `directory/profile`.
    """

    directory: Path | None = None
    log_every_steps: int = 50
    checkpoint_every_steps: int = 0
    on_step: Callable[[Counts, int], None] | None = None
    should_stop: Callable[[], bool] | None = None
    flops_of: Callable[[int, int], int] | None = None
    profile: bool = False


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
    runtime = runtime or Runtime()
    shape = shape or batch_shape(columns, config)
    mesh = train_mesh(shape.parts)
    graphdef = nnx.graphdef(model)
    source, row_map, state = begin(model, columns, config, embed_dim=embed_dim, shape=shape)
    num_steps = len(source)
    identity = run_identity(config, columns, shape, state)
    # Of several processes each packs every batch, which hangs on no number of processes, and feeds its own devices their parts.
    feed = make_feed(mesh)
    should_stop = None if runtime.should_stop is None else told_by_any(runtime.should_stop)
    if jax.process_count() > 1:
        agree({"run": identity, "steps": str(num_steps), "first parameters": digest(state)})

    # 1. Compile before the clock starts, on shapes alone.
    began = time.perf_counter()
    state = place(state, layout(mesh))
    first = parts_of(row_map(source[0]), shape.parts)
    train_step = make_train_step(graphdef, config.clip_norm, mesh, config.optimizer, config.compute, config.remat)
    step = compiled(train_step, state, first, np.zeros(len(Hyper._fields), np.float32))
    compile_secs = time.perf_counter() - began

    # 2. Take up the last checkpoint: state, place in the data, counters and clock together.
    batches, counts, loss, checkpoints = iterate(source, row_map=row_map), Counts(), math.nan, None
    if runtime.directory is not None and runtime.checkpoint_every_steps:
        checkpoints = Checkpoints(runtime.directory / "checkpoint", identity=identity)
        saved = checkpoints.restore(state)
        if saved is not None:
            state, counts, data_state, loss = saved
            batches.set_state(data_state)

    log_path = None if runtime.directory is None or not is_first() else runtime.directory / "metrics.jsonl"
    pending: Pending | None = None
    with MetricsLogger(log_path, resumed_step=counts.num_steps) as log:
        clock = Clock(counts)
        while counts.num_steps < num_steps:
            # 3. Build the next batch while the device still works on the last one.
            batch = next(batches)
            hyper = config.hyper_at(counts.num_steps, num_steps)
            # 4. Dispatch the step, then count what it was given.
            state, metrics = step(state, *feed(parts_of(batch, shape.parts), np.asarray(hyper, np.float32)))
            count(counts, batch)
            # 5. Only now read the step before: the device was busy meanwhile.
            previous, pending = pending, Pending(metrics, counts.num_steps, counts.num_examples, hyper.learning_rate, batch)
            if previous is not None:
                loss = previous.finite_loss(columns)
                if previous.step % runtime.log_every_steps == 0:
                    log.write(previous.step, **previous.report(), **rates(counts, clock.read(), runtime.flops_of, mesh))
            # 6. Checkpoint with the clock stopped; a broken state is never saved.
            is_told = should_stop is not None and should_stop() and counts.num_steps < num_steps
            if checkpoints is not None and (is_told or counts.num_steps % runtime.checkpoint_every_steps == 0):
                loss = pending.finite_loss(columns)
                if pending.step % runtime.log_every_steps == 0:  # the checkpoint's step is not done again to be logged
                    log.write(pending.step, **pending.report(), **rates(counts, clock.read(), runtime.flops_of, mesh))
                    pending = None
                clock.stop()
                if not all_finite(state):  # the step's loss was of the parameters before it
                    raise diverged("a parameter is not a number", counts.num_steps)
                checkpoints.save(Saved(state, counts, batches.get_state(), loss))
                clock.start()
            if is_told:
                raise Stopped(f"told to stop after step {counts.num_steps} of {num_steps}")
            if runtime.on_step is not None:
                runtime.on_step(counts, num_steps)
            if runtime.profile and runtime.directory is not None and is_first():
                _profile(runtime.directory, counts.num_steps, num_steps)
        # 7. The last step's metrics; the clock ends when its results are there.
        jax.block_until_ready(state)
        clock.stop()
        if pending is not None:
            loss = pending.finite_loss(columns)
            log.write(pending.step, **pending.report(), **rates(counts, counts.train_secs, runtime.flops_of, mesh))
    if checkpoints is not None:
        checkpoints.close()
    state = collect(state)  # scoring runs on one device
    trained = nnx.merge(graphdef, nnx.State(state.dense), nnx.State(state.rest))
    return TrainResult(
        model=trained,
        state=state,
        shape=shape,
        counts=counts,
        num_steps=num_steps,
        compile_secs=compile_secs,
        loss=loss,
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


PROFILED = (10, 15)


def _profile(directory: Path, step: int, num_steps: int) -> None:
    first, last = (min(place, num_steps) for place in PROFILED)
    if step == first and first < last:
        jax.profiler.start_trace(str(directory / "profile"))
    if step == last and first < last:
        jax.profiler.stop_trace()
