"""The compiled programs of a run: one training step and one scoring step.

Rates, decay and task weights are arguments, not constants, so that runs differing in them share one program.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float

from unisc.data.features import Batch
from unisc.objectives.ranking import RankingLoss, ranking_loss
from unisc.train.state import TrainState, dense_optimizer, read_rows, update_rows


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


TrainStep = Callable[[TrainState, Batch, Float[Array, "4"]], tuple[TrainState, StepMetrics]]
EvalStep = Callable[[dict[Any, Any], dict[Any, Any], Float[Array, "V E"], Batch], Float[Array, "B tasks"]]


@functools.lru_cache(maxsize=32)
def make_train_step(graphdef: nnx.GraphDef, clip_norm: float) -> TrainStep:
    """Return the jitted step `(state, batch, hyper) -> (state, metrics)`, which takes the state's buffers over.

    Cached, so that a process that trains one structure many times compiles it once for each batch shape.
    """
    optimizer = dense_optimizer(clip_norm)

    @functools.partial(jax.jit, donate_argnums=0)
    def train_step(state: TrainState, batch: Batch, hyper: Float[Array, "4"]) -> tuple[TrainState, StepMetrics]:
        rate, table_rate, decay, purchase_weight = hyper
        task_weights = jnp.ones(batch.labels.shape[-1]).at[1:].set(purchase_weight)

        def loss_fn(dense: dict[Any, Any], rows: Float[Array, "U E"]) -> tuple[Array, tuple[RankingLoss, dict[Any, Any]]]:
            model = nnx.merge(graphdef, nnx.State(dense), nnx.State(state.rest))
            loss_of = functools.partial(ranking_loss, labels=batch.labels, weights=batch.weights, task_weights=task_weights)
            # A model with terms of its own (a routing penalty, shallow logits) gives them beside its logits. They are trained
            # on but not reported: the loss of a step compares over models.
            if hasattr(model, "with_penalty"):
                logits, penalty = model.with_penalty(rows, batch, lambda x: loss_of(x).mean)
            else:
                logits, penalty = model(rows, batch), 0.0
            loss = loss_of(logits)
            _, _, rest = nnx.split(model, nnx.Param, ...)
            return loss.mean + penalty, (loss, nnx.to_pure_dict(rest))

        # The gradient is taken with respect to the rows read, never the table: nothing of the table's size is computed.
        rows = read_rows(state.table, batch.unique_rows)
        slope = jax.value_and_grad(loss_fn, argnums=(0, 1), has_aux=True)
        (_, (loss, rest)), (dense_grads, row_grads) = slope(state.dense, rows)
        updates, moments = optimizer.update(dense_grads, state.moments)
        dense = jax.tree.map(
            lambda p, u: p - rate * (u + (decay * p if p.ndim > 1 else 0.0)),  # biases and gains are not decayed
            state.dense,
            updates,
        )
        table, table_moments = update_rows(state.table, state.table_moments, batch.unique_rows, rows, row_grads, table_rate)
        # A task of weight 0 has no mean to report.
        means = loss.loss_sum / jnp.where(loss.weight_sum > 0, loss.weight_sum, 1.0)
        metrics = StepMetrics(loss=loss.mean, task_log_loss=means, grad_norm=optax.tree.norm(dense_grads))
        return TrainState(state.step + 1, dense, rest, moments, table, table_moments), metrics

    return train_step


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
        return model(read_rows(table, batch.unique_rows), batch)

    return eval_step
