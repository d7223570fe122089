"""The host's side of a run under way: what was consumed, how long it took, and steps whose results are still to be read."""

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from unisc.data.blocks import Blocks
from unisc.data.columns import Columns
from unisc.data.features import Batch
from unisc.data.pack import BatchShape
from unisc.errors import InputError
from unisc.train.checkpoint import Counts, without_keys
from unisc.train.finite import not_finite
from unisc.train.state import TrainState

PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "TPU v4": 275e12, "TPU v5p": 459e12, "TPU v5 lite": 197e12}
"""Dense bfloat16 FLOPs a second of a device, by the beginning of its kind's name, from the makers' data sheets."""


class DivergedError(RuntimeError):
    """The loss or the parameters of a step were not finite."""


def diverged(what: str, step: int) -> DivergedError:
    """Return the error of a run that has diverged."""
    return DivergedError(f"{what} at step {step}: lower learning_rate or table_learning_rate")


class Clock:
    """Adds the time between `start` and `stop` to the counts; runs from its making."""

    def __init__(self, counts: Counts):
        self._counts = counts
        self.start()

    def start(self) -> None:
        """Let time count from now."""
        self._since = time.perf_counter()

    def stop(self) -> None:
        """Add the time since `start` to the counts."""
        self._counts.train_secs = self.read()

    def read(self) -> float:
        """Return the seconds so far."""
        return self._counts.train_secs + time.perf_counter() - self._since


def count(counts: Counts, batch: Batch) -> None:
    """Count a batch on the host, from the batch itself. A list that was cut counts as a request a piece."""
    counted = np.asarray(batch.weights)[:, 0] > 0
    counts.num_steps += 1
    counts.num_examples += int(counted.sum())
    counts.num_requests += len(np.unique(np.asarray(batch.request_index)[counted]))
    counts.num_positives += int(np.asarray(batch.labels)[counted, 0].sum())


Blame = Callable[[Any, int], str | None]
"""Says of a step's batch, whose loss is not finite, what in it is not a number, and what to do; None where nothing is."""


def blame_of(columns: Columns | Blocks) -> Blame:
    """Return what names the feature of `columns` that is not a number."""

    def blame(batch: Batch, step: int) -> str | None:
        cause = not_finite(columns.spec, batch)
        if cause is None:
            return None
        return (
            f"{cause}: not a number in the batch of step {step}; correct the samples, or remove {columns.cache} if they"
            " are right, and the run goes on from its last checkpoint"
        )

    return blame


class Metrics(Protocol):
    """What a step reports, left on the device until the loop asks."""

    @property
    def loss(self) -> Array:
        """The loss that was trained on."""
        ...

    def report(self) -> dict[str, float]:
        """Return a line of the log, waiting for it."""
        ...


class Pending(NamedTuple):
    """A dispatched step's metrics, and what the counters stood at."""

    metrics: Metrics
    step: int
    num_examples: int
    learning_rate: float
    batch: Any

    def finite_loss(self, blame: Blame) -> float:
        """Return the step's loss, waiting for it.

        Raises:
          InputError: the loss is not finite and neither is something of the batch, which is named.
          DivergedError: the loss alone is not finite.
        """
        loss = float(self.metrics.loss)
        if math.isfinite(loss):
            return loss
        cause = blame(self.batch, self.step)
        if cause is None:
            raise diverged(f"loss is {loss}", self.step)
        raise InputError(cause)

    def report(self) -> dict[str, float]:
        """Return the step's line of the log."""
        at = {"train/learning_rate": self.learning_rate, "perf/num_examples": self.num_examples}
        return {**self.metrics.report(), **at}


def rates(counts: Counts, secs: float, flops_of: Callable[[int, int], int] | None, mesh: Mesh) -> dict[str, float]:
    """Return the time in steps, and over it the rate of arithmetic and its share of the devices' peak."""
    found = {"perf/train_secs": secs}
    if flops_of is not None and secs > 0:
        rate = flops_of(counts.num_examples, counts.num_requests) / secs
        found["perf/gflops_per_sec"] = rate / 1e9
        kind = mesh.devices.flat[0].device_kind
        peak = next((peak for name, peak in PEAK_FLOPS.items() if name in kind), None)
        if peak is not None:
            found["perf/mfu"] = rate / (peak * mesh.devices.size)
    return found


def run_identity(config: Any, columns: Columns | Blocks, shape: BatchShape, state: TrainState) -> str:
    """Name everything a checkpoint's numbers depend on."""
    shapes = {jax.tree_util.keystr(path): str(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(state)}
    data = [columns.cache.name, columns.num_requests, columns.num_examples, columns.spec.history_len]
    parts = [dataclasses.asdict(config), data, dataclasses.asdict(shape), shapes]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def digest(state: TrainState) -> str:
    """Name the values of a state that is on this process's devices alone."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(without_keys(state)):
        found.update(np.asarray(leaf).reshape(-1).view(np.uint8).data)
    return found.hexdigest()[:16]
