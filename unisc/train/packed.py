"""Several runs of one structure trained as one program: seeds, rates, weights and shares of the data may differ.

Every run has its own batches, schedule, counts, log and checkpoints, and ends where `unisc.train.ranking.train` would take it
alone, to rounding. Runs lie along a leading axis of the state (`unisc.train.step.make_packed_step`), shared out among the
devices. The program runs as long as its longest run: one that is over, or failed, is held, and costs what it did before, so
pack runs of like length. Where that pays is measured in `unisc.sweep.placement`.
"""

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from unisc.data.blocks import Blocks
from unisc.data.columns import Columns
from unisc.data.features import Batch
from unisc.data.pack import BatchShape
from unisc.data.pipeline import iterate
from unisc.errors import InputError, Stopped
from unisc.mesh import make_mesh, sharding
from unisc.train.checkpoint import Checkpoints, Counts, Saved, with_keys, without_keys
from unisc.train.finite import all_finite
from unisc.train.logger import MetricsLogger
from unisc.train.loop import Runtime
from unisc.train.progress import DivergedError, Pending, blame_of, count, diverged, rates, run_identity
from unisc.train.ranking import TrainConfig, TrainResult, batch_shape, begin
from unisc.train.state import TrainState
from unisc.train.step import Hyper, StepMetrics, compiled, make_packed_step, parts_of

STEPS_A_CALL = 4
"""Steps for one call of the program: for the smallest models, calling it costs about as much as a step."""
SHARED = ("optimizer", "table_optimizer", "table_dtype", "hash_rows", "collision", "clip_norm", "compute", "remat")
"""Settings that the program is made of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedRun:
    """What `ranking.train` is given for one run. `runtime.on_step` hears once a call of the program, not once a step."""

    model: nnx.Module
    columns: Columns | Blocks
    config: TrainConfig
    runtime: Runtime = field(default_factory=Runtime)


def train_packed(
    runs: Sequence[PackedRun], *, embed_dim: int, shape: BatchShape | None = None
) -> list[TrainResult | DivergedError | InputError]:
    """Train runs together, resuming each where its checkpoint stands, and return their results in order.

    A run whose loss is not finite ends there, and its error stands in for its result; the others go on. Checkpoints are each
    run's own, as `ranking.train` writes them, so that packed runs may go on alone or in another pack, and the reverse; a run
    is saved after the call of the program that passes its `checkpoint_every_steps`. A run's `train_secs` is its share of
    the time, which the runs under way split evenly; `compile_secs` is that of the one program.

    Raises:
      Stopped: a run's `should_stop` said so; all are saved.
      InputError: no runs, or runs that one program cannot train together (named with what differs); a directory holds another
        run's checkpoint.
    """
    shape, config, graphdef = _check(runs, shape), runs[0].config, nnx.graphdef(runs[0].model)
    mesh = make_mesh(devices=jax.devices()[: _num_devices(len(runs))])
    members = [_Member(run, embed_dim, shape) for run in runs]
    like = _alike([member.state for member in members])

    # 1. Compile before the clock starts, on shapes alone.
    began = time.perf_counter()
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct((len(runs), *x.shape), x.dtype), like)
    train_step = make_packed_step(graphdef, config.clip_norm, mesh, config.optimizer, config.compute, config.remat)
    step = compiled(train_step, shapes, *_given([[member.held()] * STEPS_A_CALL for member in members]))
    compile_secs = time.perf_counter() - began

    with ExitStack() as stack:
        # 2. Take up each run's last checkpoint.
        for member in members:
            member.resume(stack)
        states = _stack([member.state for member in members], mesh)
        called: _Called | None = None
        clock = _SharedClock(members)
        while any(member.is_active for member in members):
            # 3. Build the next batches while the devices still work on the last ones.
            steps = [member.next_steps(STEPS_A_CALL) for member in members]
            # 4. Dispatch them, and only now read what came before: the devices were busy meanwhile.
            states, metrics = step(states, *_given(steps))
            clock.share(steps)
            previous, called = called, _Called(metrics, steps)
            if previous is not None:
                previous.read(members, mesh)
            # 5. Checkpoint with the clock stopped; a broken state is never saved.
            is_told = max(member.should_stop() for member in members)  # all are to be asked
            due = [member.is_due(taken, is_told) for member, taken in zip(members, steps, strict=True)]
            if any(due):
                called.read(members, mesh)
                clock.share(steps)
                for member, state, is_due in zip(members, _unstack(states, like), due, strict=True):
                    if is_due and member.error is None:
                        member.save(state)
                called = None
                clock.skip()
            if is_told and any(member.is_active for member in members):
                raise Stopped("told to stop")
            for member, taken in zip(members, steps, strict=True):
                member.tell(taken)
        # 6. The last call's metrics; the clock ends when its results are there.
        jax.block_until_ready(states)
        if called is not None:
            clock.share(called.steps)
            called.read(members, mesh)
    device = jax.devices()[0]  # scoring runs on one device
    return [
        member.error or member.result(graphdef, jax.device_put(state, device), compile_secs)
        for member, state in zip(members, _unstack(states, like), strict=True)
    ]


class _Step(NamedTuple):
    """What a run is given in one step, and what its counters then stand at; the last batch once more where it is held."""

    parts: Batch
    hyper: Hyper
    is_active: bool
    step: int
    num_examples: int
    batch: Batch


class _Member:
    """The host's side of one run of the pack."""

    def __init__(self, run: PackedRun, embed_dim: int, shape: BatchShape):
        self.run, self.shape = run, shape
        self.source, self.row_map, self.state = begin(run.model, run.columns, run.config, embed_dim=embed_dim, shape=shape)
        self.num_steps, self.counts, self.loss = len(self.source), Counts(), math.nan
        self.batches = iterate(self.source, row_map=self.row_map)
        self.checkpoints: Checkpoints | None = None
        self.error: DivergedError | InputError | None = None
        self._set_last(self.row_map(self.source[0]))

    @property
    def is_active(self) -> bool:
        return self.error is None and self.counts.num_steps < self.num_steps

    def resume(self, stack: ExitStack) -> None:
        """Open checkpoints and log until `stack` ends, and take the last checkpoint up."""
        runtime, directory = self.run.runtime, self.run.runtime.directory
        if directory is not None and runtime.checkpoint_every_steps:
            identity = run_identity(self.run.config, self.run.columns, self.shape, self.state)
            self.checkpoints = Checkpoints(directory / "checkpoint", identity=identity)
            stack.callback(self.checkpoints.close)
            saved = self.checkpoints.restore(self.state)
            if saved is not None:
                self.state, self.counts, data_state, self.loss = saved
                self.batches.set_state(data_state)
        path = None if directory is None else directory / "metrics.jsonl"
        self.log = stack.enter_context(MetricsLogger(path, resumed_step=self.counts.num_steps))

    def held(self) -> _Step:
        """Return a step that leaves the run as it is."""
        parts, batch = self._last
        return _Step(parts, Hyper(0, 0, 0, 0), False, self.counts.num_steps, self.counts.num_examples, batch)

    def next_steps(self, number: int) -> list[_Step]:
        """Return the run's next steps, counted as consumed, and after its last one held ones."""
        return [self._next_step() if self.is_active else self.held() for _ in range(number)]

    def _next_step(self) -> _Step:
        batch = next(self.batches)
        hyper = self.run.config.hyper_at(self.counts.num_steps, self.num_steps)
        count(self.counts, batch)
        self._set_last(batch)
        return _Step(self._last[0], hyper, True, self.counts.num_steps, self.counts.num_examples, batch)

    def _set_last(self, batch: Batch) -> None:
        self._last = parts_of(batch, self.shape.parts), batch

    def read(self, step: _Step, metrics: StepMetrics, mesh: Mesh) -> None:
        """Take a step's results in: its loss, and what the log wants of it."""
        if not step.is_active or self.error is not None:
            return
        runtime = self.run.runtime
        pending = Pending(metrics, step.step, step.num_examples, step.hyper.learning_rate, step.batch)
        try:
            self.loss = pending.finite_loss(blame_of(self.run.columns))
        except (DivergedError, InputError) as e:
            self.error = e
            return
        if step.step % runtime.log_every_steps == 0 or step.step == self.num_steps:
            rate = rates(self.counts, self.counts.train_secs, runtime.flops_of, mesh)
            self.log.write(step.step, **pending.report(), **rate)

    def should_stop(self) -> bool:
        """Ask whether the run is to save itself and end."""
        return self.run.runtime.should_stop is not None and self.run.runtime.should_stop()

    def is_due(self, steps: Sequence[_Step], is_told: bool) -> bool:
        """Say whether these steps passed one after which the run is to be saved, or were its last before a stop."""
        every = self.run.runtime.checkpoint_every_steps
        return self.checkpoints is not None and any(s.is_active and (is_told or s.step % every == 0) for s in steps)

    def save(self, state: TrainState) -> None:
        """Write the run's own checkpoint; a broken state is never saved."""
        assert self.checkpoints is not None
        if not all_finite(state):  # the step's loss was of the parameters before it
            self.error = diverged("a parameter is not a number", self.counts.num_steps)
            return
        self.checkpoints.save(Saved(state, self.counts, self.batches.get_state(), self.loss))

    def tell(self, steps: Sequence[_Step]) -> None:
        """Show the counts to whoever watches, if these steps changed them."""
        if self.run.runtime.on_step is not None and steps[0].is_active:
            self.run.runtime.on_step(self.counts, self.num_steps)

    def result(self, graphdef: nnx.GraphDef, state: TrainState, compile_secs: float) -> TrainResult:
        """Return what `ranking.train` would."""
        return TrainResult(
            model=nnx.merge(graphdef, nnx.State(state.dense), nnx.State(state.rest)),
            state=state,
            shape=self.shape,
            counts=self.counts,
            num_steps=self.num_steps,
            compile_secs=compile_secs,
            loss=self.loss,
            row_map=self.row_map,
        )


class _Called(NamedTuple):
    """A dispatched call: its metrics (S, K) on the device, and the steps by run."""

    metrics: StepMetrics
    steps: list[list[_Step]]

    def read(self, members: Sequence[_Member], mesh: Mesh) -> None:
        """Give every run its results, waiting for them."""
        metrics = jax.device_get(self.metrics)
        for k, (member, taken) in enumerate(zip(members, self.steps, strict=True)):
            for s, step in enumerate(taken):
                member.read(step, StepMetrics(*(x[s, k] for x in metrics)), mesh)


class _SharedClock:
    """Splits the time between its calls evenly among the runs under way."""

    def __init__(self, members: Sequence[_Member]):
        self._members = members
        self.skip()

    def share(self, steps: Sequence[Sequence[_Step]]) -> None:
        """Add the time since the last call to the runs that are active in `steps`."""
        since, self._since = self._since, time.perf_counter()
        active = [m.counts for m, taken in zip(self._members, steps, strict=True) if taken[0].is_active]
        for counts in active:
            counts.train_secs += (self._since - since) / len(active)

    def skip(self) -> None:
        """Leave out the time since the last call."""
        self._since = time.perf_counter()


def _check(runs: Sequence[PackedRun], shape: BatchShape | None) -> BatchShape:
    """Return the batch shape of all runs, or name what one program cannot hold together."""
    if not runs:
        raise InputError("packed runs: none given; give at least one")
    if jax.process_count() > 1:
        raise InputError(f"packed runs: in {jax.process_count()} processes; train them in one, or one after the other")
    first = runs[0]
    shapes = [shape or batch_shape(run.columns, run.config) for run in runs]
    for i, run in enumerate(runs):
        pairs = {name: (getattr(run.config, name), getattr(first.config, name)) for name in SHARED}
        pairs["batch shape"] = shapes[i], shapes[0]
        for name, (own, others) in pairs.items():
            if own != others:
                raise InputError(f"packed run {i}: its {name} {own!r} is not the first run's {others!r}; train it apart")
        if run.columns.spec != first.columns.spec or nnx.graphdef(run.model) != nnx.graphdef(first.model):
            raise InputError(f"packed run {i}: another model or other features than the first run's; train it apart")
        if run.runtime.profile:
            raise InputError(f"packed run {i}: profile: runs trained together are not traced; train it apart")
    directories = [run.runtime.directory for run in runs if run.runtime.directory is not None]
    for directory in directories:
        if directories.count(directory) > 1:
            raise InputError(f"{directory}: the directory of several packed runs; give each its own")
    return shapes[0]


def _alike(states: Sequence[TrainState]) -> TrainState:
    """Return the first state, all being of its shapes."""
    shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), state) for state in states]
    for i, other in enumerate(shapes):
        if other != shapes[0]:
            raise InputError(f"packed run {i}: a model of another size than the first run's; train it apart")
    return states[0]


def _num_devices(num_runs: int) -> int:
    """Return how many devices can have equally many runs each."""
    return max(n for n in range(1, jax.device_count() + 1) if num_runs % n == 0)


def _given(steps: Sequence[Sequence[_Step]]) -> tuple[Batch, np.ndarray, np.ndarray]:
    """Stack the S steps of K runs: parts, settings and who is active, each of leading axes (S, K)."""
    by_step = [step for taken in zip(*steps, strict=True) for step in taken]
    axes = len(steps[0]), len(steps)

    def stack(*arrays: Any) -> np.ndarray:
        return np.stack(arrays).reshape(*axes, *np.shape(arrays[0]))

    parts = jax.tree.map(stack, *(step.parts for step in by_step))
    hyper = stack(*(np.asarray(step.hyper, np.float32) for step in by_step))
    return parts, hyper, np.array([step.is_active for step in by_step]).reshape(axes)


def _stack(states: Sequence[TrainState], mesh: Mesh) -> TrainState:
    """Lay states along a leading axis, shared out among the devices; by numpy, which has nothing to compile."""
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *map(without_keys, states))
    return jax.device_put(with_keys(stacked, states[0]), sharding(mesh, "run"))


def _unstack(states: TrainState, like: TrainState) -> list[TrainState]:
    """Return each run's state, on the host."""
    held = jax.device_get(without_keys(states))
    return [with_keys(jax.tree.map(lambda x, k=k: np.array(x[k, ...]), held), like) for k in range(len(held.step))]
