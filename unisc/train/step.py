"""The compiled programs of a run: one training step and one scoring step.

Rates, decay and task weights are arguments, not constants, so that runs differing in them share one program.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from unisc.data.features import BY_ROW, Batch
from unisc.mesh import DATA, MODEL, place, sharding
from unisc.nn.recompute import recomputing
from unisc.nn.tables import compose
from unisc.objectives.ranking import RankingLoss, ranking_loss
from unisc.train.optimizers import DenseOptimizer, dense_optimizer, is_decayed
from unisc.train.state import TrainState, layout, read_rows, streams_of_part, update_rows

AXES = (DATA, MODEL)
"""Every device takes a share of the batch and of the table's rows."""


class Hyper(NamedTuple):
    """A step's settings, as one small array to keep the transfer small: rates after the schedule, decay, task weights."""

    learning_rate: float
    table_learning_rate: float
    weight_decay: float
    purchase_weight: float


class StepMetrics(NamedTuple):
    """What a step reports, left on the device until the loop asks."""

    loss: Float[Array, ""]
    task_log_loss: Float[Array, "tasks"]
    grad_norm: Float[Array, ""]

    def report(self) -> dict[str, float]:
        """Return the step's line of the log, waiting for it."""
        return {
            "train/loss": float(self.loss),
            "train/log_loss": float(self.task_log_loss[0]),
            "train/grad_norm": float(self.grad_norm),
        }


ComputeType = Literal["float32", "bfloat16"]
TrainStep = Callable[[TrainState, Batch, Float[Array, "4"]], tuple[TrainState, StepMetrics]]
PackedStep = Callable[[TrainState, Batch, Float[Array, "S K 4"], Bool[Array, "S K"]], tuple[TrainState, StepMetrics]]
EvalStep = Callable[[dict[Any, Any], dict[Any, Any], Float[Array, "V E"], Batch], Float[Array, "B tasks"]]


@functools.lru_cache(maxsize=32)
def make_train_step(
    graphdef: nnx.GraphDef,
    clip_norm: float,
    mesh: Mesh,
    optimizer_name: DenseOptimizer = "adam",
    compute: ComputeType = "float32",
    remat: bool = False,
) -> TrainStep:
    """Return the jitted step `(state, parts, hyper) -> (state, metrics)`, which takes the state's buffers over.

    `parts` is a batch cut by `parts_of`: each device works on its share of the parts, one after the other, and adds the
    gradients up, so that memory holds the activations of one part a device. The loss is the mean over the whole batch, whatever
    the number of parts and devices. With `compute` "bfloat16" the model runs in it; parameters, gradients, their sums and the
    loss stay float32. With `remat` the backward pass computes a model's layers again, and memory holds their inputs and the
    activations of one (`unisc.nn.recompute`). Cached, so that a process that trains one structure many times compiles it once
    for each batch shape.
    """
    on_device = step_body(graphdef, clip_norm, optimizer_name, compute, remat=remat, axes=AXES)
    states, everywhere, parts = layout(mesh), sharding(mesh), _parts_layout(mesh)
    specs = jax.tree.map(lambda s: s.spec, ((states, parts, everywhere), (states, everywhere)))
    local = jax.shard_map(on_device, mesh=mesh, in_specs=specs[0], out_specs=specs[1], check_vma=False)
    return jax.jit(local, donate_argnums=0, in_shardings=(states, parts, everywhere), out_shardings=(states, everywhere))


def _parts_layout(mesh: Mesh) -> Batch:
    batches, everywhere = sharding(mesh, "batch"), sharding(mesh)
    return Batch._make(everywhere if name in BY_ROW else batches for name in Batch._fields)


def make_feed(mesh: Mesh) -> Callable[[Batch, np.ndarray], tuple[Any, Any]]:
    """Return what makes a step's host arrays, of which every process has the whole, arrays over all devices.

    A process on its own leaves them as they are: the step's call moves them, and faster.
    """
    if jax.process_count() == 1:
        return lambda parts, hyper: (parts, hyper)
    layout_of_parts, everywhere = _parts_layout(mesh), sharding(mesh)
    return lambda parts, hyper: (place(parts, layout_of_parts), place(hyper, everywhere))


@functools.lru_cache(maxsize=32)
def make_packed_step(
    graphdef: nnx.GraphDef,
    clip_norm: float,
    mesh: Mesh,
    optimizer_name: DenseOptimizer = "adam",
    compute: ComputeType = "float32",
    remat: bool = False,
) -> PackedStep:
    """Return the jitted steps of K runs at once, `(states, parts, hyper, is_active) -> (states, metrics)`.

    States have a leading axis K; parts, settings and metrics have axes (S, K): S steps are taken for one call. Each device has
    K / devices of the runs to itself. A run keeps its state in the steps in which it is not active, at the cost of computing
    them; of the table nothing is copied for that, since such a step names no row of it.
    """
    body = step_body(graphdef, clip_norm, optimizer_name, compute, remat=remat, axes=())

    def one_run(state: TrainState, batch: Batch, hyper: Array, is_active: Array) -> tuple[TrainState, StepMetrics]:
        no_row = state.table.shape[0]
        moved, metrics = body(state, batch._replace(unique_rows=jnp.where(is_active, batch.unique_rows, no_row)), hyper)
        small = [name for name in TrainState._fields if not name.startswith("table")]
        kept = {
            name: jax.tree.map(functools.partial(jnp.where, is_active), getattr(moved, name), getattr(state, name))
            for name in small
        }
        return moved._replace(**kept), metrics

    def on_device(states: TrainState, parts: Batch, hyper: Array, is_active: Array) -> tuple[TrainState, StepMetrics]:
        return jax.lax.scan(lambda held, given: jax.vmap(one_run)(held, *given), states, (parts, hyper, is_active))

    by_run, by_step = sharding(mesh, "run"), sharding(mesh, None, "run")
    specs = (by_run.spec, by_step.spec, by_step.spec, by_step.spec), (by_run.spec, by_step.spec)
    local = jax.shard_map(on_device, mesh=mesh, in_specs=specs[0], out_specs=specs[1], check_vma=False)
    return jax.jit(local, donate_argnums=0, in_shardings=(by_run, by_step, by_step, by_step), out_shardings=(by_run, by_step))


def step_body(
    graphdef: nnx.GraphDef,
    clip_norm: float,
    optimizer_name: DenseOptimizer,
    compute: ComputeType,
    *,
    remat: bool,
    axes: tuple[str, ...],
) -> TrainStep:
    """Return what a device does in a step: forward, backward and both updates, before any compilation.

    `axes` are the mesh axes that share one run's parts and table rows; none where a device has runs of its own.
    """
    optimizer = dense_optimizer(optimizer_name, clip_norm=clip_norm)

    def one_step(state: TrainState, batch: Batch, hyper: Float[Array, "4"]) -> tuple[TrainState, StepMetrics]:
        rate, table_rate, decay, purchase_weight = hyper
        task_weights = jnp.ones(batch.labels.shape[-1]).at[1:].set(purchase_weight)
        # Rows of the table are spread over the devices: each reads and writes its own, out of range are those of others.
        unique_rows = batch.unique_rows - jax.lax.axis_index(axes) * state.table.shape[0]
        own_rows = read_rows(state.table, unique_rows)
        rows, decompose = jax.vjp(lambda stored: compose(stored, batch.row_parts), jax.lax.psum(own_rows, axes))
        weight = jax.lax.psum(jnp.sum(batch.weights * task_weights), axes)
        scale = 1.0 / jnp.where(weight > 0, weight, 1.0)

        def loss_fn(dense: Any, rows: Float[Array, "U E"], rest: Any, part: Batch) -> tuple[Array, tuple[RankingLoss, Any]]:
            targets = {"labels": part.labels, "weights": part.weights, "task_weights": task_weights}
            if compute == "bfloat16":
                dense, rows, part = jax.tree.map(narrow, (dense, rows, part))
            model = nnx.merge(graphdef, nnx.State(dense), nnx.State(rest))

            def loss_of(logits: Array) -> RankingLoss:
                return ranking_loss(logits.astype(jnp.float32), **targets)

            # A model with terms of its own (a routing penalty, shallow logits) gives them beside its logits. They are trained
            # on but not reported: the loss of a step compares over models.
            with recomputing(remat):
                if hasattr(model, "with_penalty"):
                    logits, penalty = model.with_penalty(rows, part, lambda x: loss_of(x).mean)
                else:
                    logits, penalty = model(rows, part), 0.0
            loss = loss_of(logits)
            share = jnp.sum(loss.weight_sum) * scale  # of the whole batch's weight
            _, _, rest = nnx.split(model, nnx.Param, ...)
            return (loss.mean + jnp.asarray(penalty, jnp.float32)) * share, (loss, nnx.to_pure_dict(rest))

        num_local = batch.labels.shape[0]
        num_parts = num_local * jax.lax.psum(1, axes)

        def add_part(so_far: Any, given: tuple[Batch, Int[Array, ""]]) -> tuple[Any, None]:
            (total, rest), (part, index) = so_far, given
            rest = rest if num_parts == 1 else streams_of_part(rest, state.rest, index)
            part = part._replace(**{name: getattr(batch, name) for name in BY_ROW})
            slope = jax.value_and_grad(loss_fn, argnums=(0, 1), has_aux=True)
            (_, (loss, rest)), (dense_grads, row_grads) = slope(state.dense, rows, rest, part)
            mean = jnp.sum(loss.loss_sum) * scale
            found = (mean, loss.loss_sum, loss.weight_sum, dense_grads, row_grads)
            return (jax.tree.map(jnp.add, total, found), rest), None

        # The gradient is taken with respect to the rows read, never the table: nothing of the table's size is computed.
        per_task = jnp.zeros_like(task_weights)
        nothing = (jnp.zeros(()), per_task, per_task, jax.tree.map(jnp.zeros_like, state.dense), jnp.zeros_like(rows))
        parts = Batch._make(None if name in BY_ROW else x for name, x in batch._asdict().items())
        which = jax.lax.axis_index(axes) * num_local + jnp.arange(num_local)
        if num_local == 1:
            (total, rest), _ = add_part((nothing, state.rest), jax.tree.map(lambda x: x[0], (parts, which)))
        else:
            (total, rest), _ = jax.lax.scan(add_part, (nothing, state.rest), (parts, which))
        rest = rest if num_parts == 1 else streams_of_part(rest, state.rest, None)
        mean, loss_sum, weight_sum, dense_grads, row_grads = jax.lax.psum(total, axes)
        # What a model measures as it goes, each device has measured on its own parts; counts have moved alike on all.
        rest = jax.tree.map(lambda x: jax.lax.pmean(x, axes) if jnp.issubdtype(x.dtype, jnp.floating) else x, rest)
        model = nnx.merge(graphdef, nnx.State(state.dense), nnx.State(rest))
        if hasattr(model, "end_step"):  # what moves once a step, however many parts and devices it had
            model.end_step()
            rest = nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Param)))
        (row_grads,) = decompose(row_grads)

        updates, moments = optimizer.update(dense_grads, state.moments)
        dense = jax.tree.map(
            lambda p, u: p - rate * (u + (decay * p if is_decayed(p) else 0.0)),  # biases and gains are not decayed
            state.dense,
            updates,
        )
        table, table_moments = update_rows(
            state.table, state.table_moments, unique_rows, own_rows, row_grads, table_rate, state.step
        )
        # A task of weight 0 has no mean to report.
        means = loss_sum / jnp.where(weight_sum > 0, weight_sum, 1.0)
        metrics = StepMetrics(loss=mean, task_log_loss=means, grad_norm=optax.tree.norm(dense_grads))
        return TrainState(state.step + 1, dense, rest, moments, table, table_moments), metrics

    return one_step


def narrow(x: Array) -> Array:
    """Return a float32 array as bfloat16, any other as it is."""
    return x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x


def parts_of(batch: Batch, num_parts: int) -> Batch:
    """Cut a batch that was packed in equal parts into them: every array but those of BY_ROW gets a leading axis of parts."""
    cut: dict[str, Any] = {
        name: np.reshape(x, (num_parts, x.shape[0] // num_parts, *x.shape[1:]))
        for name, x in batch._asdict().items()
        if name not in BY_ROW
    }
    if num_parts > 1:
        part = np.arange(num_parts, dtype=np.int32)
        num_requests, num_candidates = cut["history_mask"].shape[1], cut["domain"].shape[1]
        cut["request_index"] = cut["request_index"] - part[:, None] * num_requests
        cut["lists"] = np.minimum(cut["lists"] - part[:, None, None] * num_candidates, num_candidates)
    return batch._replace(**cut)


def compiled(step: Any, *args: Any) -> Any:
    """Compile a jitted step for the shapes of `args` without running it; the second call with like shapes costs nothing."""
    leaves, structure = jax.tree.flatten(args)
    return _compiled(step, structure, tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves))


@functools.lru_cache(maxsize=64)
def _compiled(step: Any, structure: Any, leaves: tuple[jax.ShapeDtypeStruct, ...]) -> Any:
    return step.lower(*jax.tree.unflatten(structure, leaves)).compile()


@functools.lru_cache(maxsize=32)
def make_eval_step(graphdef: nnx.GraphDef) -> EvalStep:
    """Return the jitted scoring step `(dense, rest, table, batch) -> logits (B, tasks)`; `graphdef` of a model in eval mode."""

    @jax.jit
    def eval_step(dense: dict[Any, Any], rest: dict[Any, Any], table: Float[Array, "V E"], batch: Batch) -> Array:
        model = nnx.merge(graphdef, nnx.State(dense), nnx.State(rest))
        return model(compose(read_rows(table, batch.unique_rows), batch.row_parts), batch)

    return eval_step
