"""How long runs take: predicted from their cost, corrected by what finished runs took, and summed to the time left."""

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from unisc.sweep.plan import Run

OVERHEAD_FLOPS = 2e10
"""What starting a run costs, in the FLOPs one core does meanwhile (about 2 s of tracing and compiling at 10 GFLOP/s)."""


def cost_units(train_flops: float, *, overhead_flops: float = OVERHEAD_FLOPS) -> float:
    """Return a run's predicted cost: its training FLOPs and a fixed overhead, so that small runs are not thought free."""
    return float(train_flops) + overhead_flops


@dataclass(frozen=True, slots=True)
class Calibration:
    """Seconds a cost unit, learned from finished runs: `secs_per_unit` over all, and per `compile_key` where seen.

    Small models reach a smaller share of a processor's peak than large ones, hence the rates by key (one model size each).
    """

    secs_per_unit: float | None = None
    by_key: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def fit(cls, finished: Iterable[tuple[Run, float]]) -> "Calibration":
        """Learn from (run, seconds taken) pairs; without any, nothing is predicted."""
        totals: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for run, secs in finished:
            for key in ("", f"/{run.compile_key}"):
                totals[key][0] += secs
                totals[key][1] += max(run.cost, 1e-9)
        if "" not in totals:
            return cls()
        rates = {key: secs / units for key, (secs, units) in totals.items()}
        return cls(secs_per_unit=rates.pop(""), by_key={key[1:]: rate for key, rate in rates.items()})

    def times(self, factor: float) -> "Calibration":
        """Return the calibration of so many devices' time where this is one's."""
        secs = self.secs_per_unit
        rates = {key: factor * rate for key, rate in self.by_key.items()}
        return Calibration(secs_per_unit=None if secs is None else factor * secs, by_key=rates)

    def predict_secs(self, run: Run) -> float | None:
        """Return how long a run will take; None before any run has finished."""
        if self.secs_per_unit is None:
            return None
        return max(run.cost, 1e-9) * self.by_key.get(run.compile_key, self.secs_per_unit)


def secs_of(record: Mapping[str, object]) -> float:
    """Return what a finished run took, its own set-up included."""
    timing = record.get("timing")
    if not isinstance(timing, Mapping):
        return 0.0
    return float(timing.get("wall_secs") or 0.0) + float(timing.get("setup_secs") or 0.0)


def remaining_secs(running: Sequence[float], waiting: Iterable[float], num_workers: int) -> float:
    """Return when the last of the `waiting` runs ends, started longest first as workers become free.

    `running` are the seconds left of runs under way, one a busy worker.
    """
    free = [max(secs, 0.0) for secs in running] + [0.0] * max(num_workers - len(running), 0)
    heapq.heapify(free)
    for secs in sorted(waiting, reverse=True):
        heapq.heappush(free, heapq.heappop(free) + secs)
    return max(free, default=0.0)


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit on wall-clock hours, checked at each claim: no run starts that is predicted to end beyond it."""

    max_hours: float | None

    def allows(self, run: Run, elapsed_secs: float, calibration: Calibration) -> bool:
        """Return whether a run may start now; before any prediction is possible, whether any time is left."""
        if self.max_hours is None:
            return True
        predicted = calibration.predict_secs(run) or 0.0
        return elapsed_secs < self.max_hours * 3600 and elapsed_secs + predicted <= self.max_hours * 3600
