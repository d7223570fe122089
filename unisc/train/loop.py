"""The loop in which everything here is trained. The order of its statements is a contract: a run that was interrupted goes on
from its last checkpoint and ends bit by bit where it would have ended.

What is trained is a `Task`: rankers (`unisc.train.ranking`) and encoders (`unisc.train.encoder`) each make theirs.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from unisc import config
from unisc.data.pipeline import BatchIterator
from unisc.distributed import agree, is_first, told_by_any
from unisc.errors import Stopped
from unisc.mesh import collect, place
from unisc.train.checkpoint import Checkpoints, Counts, Saved
from unisc.train.finite import all_finite
from unisc.train.logger import MetricsLogger
from unisc.train.progress import Blame, Clock, Pending, digest, diverged, rates
from unisc.train.state import TrainState, layout
from unisc.train.step import compiled


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

    @classmethod
    def of(
        cls,
        runtime: config.Runtime,
        *,
        directory: Path | None = None,
        part: tuple[float, float] = (0.0, 0.9),
        flops_of: Callable[[int, int], int] | None = None,
    ) -> "Runtime":
        """Return what an experiment is given as what the loop is; steps are that `part` of its progress."""
        first, last = part
        return cls(
            directory=Path(runtime.work_dir) if directory is None else directory,
            log_every_steps=runtime.log_every_steps,
            checkpoint_every_steps=runtime.checkpoint_every_steps,
            on_step=lambda counts, num_steps: runtime.report(first + (last - first) * counts.num_steps / num_steps),
            should_stop=runtime.should_stop,
            flops_of=flops_of,
            profile=runtime.profile,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What is to be trained.

    Attributes:
      identity: names everything a checkpoint's numbers depend on.
      state: the first state, whole on this process.
      mesh: the devices that share the work.
      batches: in order, host arrays; every process makes all of them, which hangs on no number of processes.
      first: a batch, for its shapes.
      num_steps: how many batches there are.
      step: jitted `(state, *feed(batch, hyper)) -> (state, metrics)`; metrics have a `loss` and a `report`.
      feed: moves a batch and a step's settings to the devices.
      hyper_at: the settings of a step counted from 0, a tuple of numbers that begins with the learning rate.
      count: adds a batch to the counts.
      blame: says what of a batch is not a number, if anything is.
    """

    identity: str
    state: TrainState
    mesh: Mesh
    batches: BatchIterator
    first: Any
    num_steps: int
    step: Any
    feed: Callable[[Any, np.ndarray], tuple[Any, ...]]
    hyper_at: Callable[[int], tuple[float, ...]]
    count: Callable[[Counts, Any], None]
    blame: Blame


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """A task's last state, on one device, what it consumed, and its last step's loss."""

    state: TrainState
    counts: Counts
    loss: float
    compile_secs: float


def run(task: Task, runtime: Runtime) -> Finished:
    """Take a task's steps, resuming where a checkpoint stands.

    Raises:
      Stopped: `runtime.should_stop` said so; called again, the task goes on from its checkpoint.
      DivergedError: the loss of a step, or a parameter that a checkpoint would hold, is not finite; the message names the step.
      InputError: the directory holds another run's checkpoint, or a batch holds what is not a number (named with the step);
        the last checkpoint stays, and the run goes on from it once the data are right.
    """
    num_steps = task.num_steps
    should_stop = None if runtime.should_stop is None else told_by_any(runtime.should_stop)
    if jax.process_count() > 1:
        agree({"run": task.identity, "steps": str(num_steps), "first parameters": digest(task.state)})

    # 1. Compile before the clock starts, on shapes alone.
    began = time.perf_counter()
    state = place(task.state, layout(task.mesh))
    settings = np.asarray(task.hyper_at(0), np.float32)
    step = compiled(task.step, state, *task.feed(task.first, settings))
    compile_secs = time.perf_counter() - began

    # 2. Take up the last checkpoint: state, place in the data, counters and clock together.
    batches, counts, loss, checkpoints = task.batches, Counts(), math.nan, None
    if runtime.directory is not None and runtime.checkpoint_every_steps:
        checkpoints = Checkpoints(runtime.directory / "checkpoint", identity=task.identity)
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
            hyper = task.hyper_at(counts.num_steps)
            # 4. Dispatch the step, then count what it was given.
            state, metrics = step(state, *task.feed(batch, np.asarray(hyper, np.float32)))
            task.count(counts, batch)
            # 5. Only now read the step before: the device was busy meanwhile.
            previous, pending = pending, Pending(metrics, counts.num_steps, counts.num_examples, hyper[0], batch)
            if previous is not None:
                loss = previous.finite_loss(task.blame)
                if previous.step % runtime.log_every_steps == 0:
                    log.write(previous.step, **previous.report(), **rates(counts, clock.read(), runtime.flops_of, task.mesh))
            # 6. Checkpoint with the clock stopped; a broken state is never saved.
            is_told = should_stop is not None and should_stop() and counts.num_steps < num_steps
            if checkpoints is not None and (is_told or counts.num_steps % runtime.checkpoint_every_steps == 0):
                loss = pending.finite_loss(task.blame)
                if pending.step % runtime.log_every_steps == 0:  # the checkpoint's step is not done again to be logged
                    log.write(pending.step, **pending.report(), **rates(counts, clock.read(), runtime.flops_of, task.mesh))
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
            loss = pending.finite_loss(task.blame)
            log.write(pending.step, **pending.report(), **rates(counts, counts.train_secs, runtime.flops_of, task.mesh))
    if checkpoints is not None:
        checkpoints.close()
    state = collect(state)  # scoring runs on one device
    return Finished(state=state, counts=counts, loss=loss, compile_secs=compile_secs)


PROFILED = (10, 15)


def _profile(directory: Path, step: int, num_steps: int) -> None:
    first, last = (min(place, num_steps) for place in PROFILED)
    if step == first and first < last:
        jax.profiler.start_trace(str(directory / "profile"))
    if step == last and first < last:
        jax.profiler.stop_trace()
