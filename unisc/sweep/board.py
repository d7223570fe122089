"""What one worker knows of a sweep's runs. Looking costs by the number of runs, so it looks seldom and remembers."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from unisc.sweep.budget import Budget, Calibration
from unisc.sweep.order import Queue
from unisc.sweep.plan import Run, run_store
from unisc.sweep.record import parse_secs, parse_status
from unisc.sweep.settings import Settings
from unisc.sweep.store import Store

CANCELLED = "cancelled.json"
LOOK_SECS = 2.0
SHARE = 0.05
"""Of a worker's time, at most this goes into looking where runs are waiting that it knows of."""


@dataclass(slots=True)
class Board:
    """Which runs wait, which are done and what they took, which keys are begun, and when a failed run may be tried again."""

    store: Store
    runs: Sequence[Run]
    settings: Settings
    finished: dict[str, float] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    waiting: dict[str, Run] = field(default_factory=dict)
    begun_keys: set[str] = field(default_factory=set)
    is_cancelled: bool = False
    _queue: Queue = field(default_factory=lambda: Queue((), {}))
    _calibration: Calibration = field(default_factory=Calibration)
    _calibrated: int = 0
    _not_before: dict[str, float] = field(default_factory=dict)
    _running: dict[str, Run] = field(default_factory=dict)
    _began: float = field(default_factory=time.monotonic)
    _looked: float = -float("inf")
    _look_took: float = 0.0

    def look(self, *, now: bool = False) -> bool:
        """Look again if that is due, or `now`; return whether this did."""
        began = time.monotonic()
        if not now and began - self._looked < max(LOOK_SECS, self._look_took / SHARE):
            return False
        self.is_cancelled = is_cancelled(self.store)
        present = set(self.store.names("runs"))
        self.waiting, self._running, self.begun_keys = {}, {}, set()
        there = [run for run in self.runs if run.fingerprint in present and run.fingerprint not in self.finished]
        records = self.store.read_many([f"runs/{run.fingerprint}/record.json" for run in there])
        unfinished = []
        for run, text in zip(there, records, strict=True):
            secs = parse_secs(text, run_store(self.store, run.fingerprint), run.fingerprint)
            if secs is None:
                unfinished.append(run)
            else:
                self.finished[run.fingerprint] = secs
        statuses = self.store.read_many([f"runs/{run.fingerprint}/status.json" for run in unfinished])
        states = dict(zip((run.fingerprint for run in unfinished), map(parse_status, statuses), strict=True))
        for run in self.runs:
            state = states.get(run.fingerprint, {})
            if run.fingerprint in self.finished or state.get("state") == "running":
                self.begun_keys.add(run.compile_key)
            if run.fingerprint not in self.finished and state.get("state") != "failed":
                self._wait_for(run, state.get("failures", 0))
                if state.get("state") == "running":
                    self._running[run.fingerprint] = run
        self._queue = Queue(self.waiting.values(), self.failures)
        self._looked = time.monotonic()
        self._look_took = self._looked - began
        return True

    def _wait_for(self, run: Run, failures: int) -> None:
        self.waiting[run.fingerprint] = run
        if failures > self.failures.get(run.fingerprint, 0):  # on this worker's own clock, from when it saw the failure
            wait = self.settings.backoff_secs * 2 ** (failures - 1)
            self._not_before[run.fingerprint] = time.monotonic() + wait
        self.failures[run.fingerprint] = failures

    def next(self, warm_keys: set[str]) -> Run | None:
        """Return and take out the run to try next; None where none is left that may start now."""
        keys = {"warm_keys": warm_keys, "begun_keys": self.begun_keys | warm_keys}
        while (run := self._queue.best(num_workers=self.settings.num_workers, **keys)) is not None:
            self._queue.remove(run)
            if self.may_start(run) and self._not_before.get(run.fingerprint, 0.0) <= time.monotonic():
                return run
        return None

    def like(self, run: Run) -> list[Run]:
        """Return and take out runs to be claimed as a set with a run: of its compile key, and none that has failed before."""
        if not run.packs or self.failures.get(run.fingerprint, 0):
            return []
        found = [each for each in self._queue.like(run, self.settings.pack_limit - 1) if self.may_start(each)]
        for each in found:
            self._queue.remove(each)
        return found

    def finish(self, run: Run, secs: float) -> None:
        """Note a run that this worker has recorded."""
        self.finished[run.fingerprint] = secs
        self.waiting.pop(run.fingerprint, None)

    def may_start(self, run: Run) -> bool:
        """Return whether the budgets allow a run to start now."""
        limit, hours = self.settings.max_device_hours, self.settings.max_hours
        if limit is None and hours is None:
            return True
        if len(self.finished) >= 1.05 * self._calibrated:  # a fit costs by the number of runs
            done = ((each, self.finished[each.fingerprint]) for each in self.runs if each.fingerprint in self.finished)
            self._calibration, self._calibrated = Calibration.fit(done), len(self.finished)
        if not Budget(hours).allows(run, time.monotonic() - self._began, self._calibration):
            return False
        devices = self.settings.devices_per_worker
        under_way = sum(self._calibration.predict_secs(each) or 0.0 for each in self._running.values() if each != run)
        spent = devices * (sum(self.finished.values()) + under_way)
        return Budget(limit).allows(run, spent, self._calibration.times(devices))

    def has_affordable(self) -> bool:
        """Return whether any waiting run may still start, now or once its wait is over."""
        return any(self.may_start(run) for run in self.waiting.values())


def is_cancelled(store: Store) -> bool:
    """Return whether somebody has called the sweep off."""
    return store.read(CANCELLED) is not None
