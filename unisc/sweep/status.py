"""How a sweep stands: counts and the time left, read from its files alone."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unisc.sweep.budget import Calibration, remaining_secs
from unisc.sweep.lease import Observer
from unisc.sweep.plan import Run, read_plan, run_folder, run_store
from unisc.sweep.record import parse_secs, parse_status
from unisc.sweep.settings import truth_of
from unisc.sweep.store import Store

MIN_FRAC = 0.02
"""A run that has reported at least this share of itself helps to predict while nothing has finished yet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """Counts of a sweep's planned runs, and the predicted seconds until all are done (None before there is a basis)."""

    total: int
    done: int
    running: int
    failed: int
    pending: int
    eta_secs: float | None

    def __str__(self) -> str:
        parts = [f"{self.done}/{self.total} runs", f"{self.running} running"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        if self.running or self.pending:
            parts.append("estimating time left" if self.eta_secs is None else f"{clock(self.eta_secs)} left")
        return ", ".join(parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """A run that failed for good, with the last line of its error and where its output is."""

    run: Run
    error: str
    log: Path
    tail: tuple[str, ...] = ()
    """the last lines of its output"""

    def __str__(self) -> str:
        return f"{self.run.label} failed: {self.error} (its output: {self.log})"


@dataclass(slots=True)
class Monitor:
    """Watches one sweep; remembers which runs are done, so that a look costs by the runs that are not."""

    sweep_dir: Path
    runs: list[Run]
    observer: Observer = field(default_factory=lambda: Observer(stale_secs=60.0))
    finished: dict[str, float] = field(default_factory=dict)
    statuses: dict[str, dict[str, Any]] = field(default_factory=dict)
    """of the runs begun and not finished, at the last look; `state` is running only where a lease is alive"""
    _store: Store | None = None

    @property
    def store(self) -> Store:
        """The store of the sweep's truth."""
        if self._store is None:
            self._store = truth_of(self.sweep_dir)
        return self._store

    def look(self, *, num_workers: int | None = None) -> Summary:
        """Return the counts now; without `num_workers`, as many workers are assumed as runs are under way."""
        self._read()
        states = {fingerprint: status["state"] for fingerprint, status in self.statuses.items()}
        left = [run for run in self.runs if run.fingerprint not in self.finished]
        running = [(run, self.statuses[run.fingerprint]) for run in left if states.get(run.fingerprint) == "running"]
        failed = [run for run in left if states.get(run.fingerprint) == "failed"]
        waiting = [run for run in left if states.get(run.fingerprint) not in ("running", "failed")]
        return Summary(
            total=len(self.runs),
            done=len(self.runs) - len(left),
            running=len(running),
            failed=len(failed),
            pending=len(waiting),
            eta_secs=self._eta(running, waiting, num_workers or max(len(running), 1)),
        )

    def _read(self) -> None:
        present = set(self.store.names("runs"))
        begun = [run for run in self.runs if run.fingerprint not in self.finished and run.fingerprint in present]
        texts = self.store.read_many([f"runs/{run.fingerprint}/record.json" for run in begun])
        unfinished = []
        for run, text in zip(begun, texts, strict=True):
            secs = None if text is None else parse_secs(text, run_store(self.store, run.fingerprint), run.fingerprint)
            if secs is not None:
                self.finished[run.fingerprint] = secs
            else:
                unfinished.append(run)
        texts = self.store.read_many([f"runs/{run.fingerprint}/status.json" for run in unfinished])
        self.statuses = {run.fingerprint: parse_status(text) for run, text in zip(unfinished, texts, strict=True)}
        for fingerprint, status in self.statuses.items():
            if status["state"] in ("running", "done"):  # done without a record is not
                number, liveness = self.observer.look(run_store(self.store, fingerprint))
                is_held = number and liveness in ("alive", "unknown")
                status["state"] = "running" if is_held and status["state"] == "running" else "pending"

    def failures(self) -> list[Failure]:
        """Return the runs that failed for good."""
        self._read()
        found = []
        for run in self.runs:
            status = self.statuses.get(run.fingerprint)
            if status is not None and status["state"] == "failed":
                log = run_folder(self.sweep_dir, run.fingerprint) / "log.txt"
                found.append(Failure(run=run, error=str(status["error"]), tail=tuple(status["tail"]), log=log))
        return found

    def _eta(self, running: list[tuple[Run, dict]], waiting: list[Run], num_workers: int) -> float | None:
        now = time.time()
        samples = [(run, self.finished[run.fingerprint]) for run in self.runs if run.fingerprint in self.finished]
        elapsed = {run.fingerprint: max(now - (status["started_at"] or now), 0.0) for run, status in running}
        fracs = {run.fingerprint: status["frac_done"] for run, status in running}
        samples += [(run, elapsed[run.fingerprint] / f) for run, _ in running if (f := fracs[run.fingerprint]) >= MIN_FRAC]
        calibration = Calibration.fit(samples)
        left = []
        for run, _ in running:
            spent, frac, predicted = elapsed[run.fingerprint], fracs[run.fingerprint], calibration.predict_secs(run)
            if frac >= MIN_FRAC:
                left.append(spent * (1 - frac) / frac)
            elif predicted is None:
                return None
            else:
                left.append(max(predicted - spent, 0.1 * predicted))
        needed = [calibration.predict_secs(run) for run in waiting]
        if any(secs is None for secs in needed):
            return None
        return remaining_secs(left, [secs for secs in needed if secs is not None], num_workers)


def summary(sweep_dir: Path) -> Summary:
    """Return how a sweep stands.

    Raises:
      InputError: not a sweep directory, or one that another version has written.
    """
    return Monitor(Path(sweep_dir), read_plan(truth_of(Path(sweep_dir)), verify=False)).look()


def failures(sweep_dir: Path) -> list[Failure]:
    """Return the planned runs of a sweep directory that failed for good; raises as `summary` does."""
    return Monitor(Path(sweep_dir), read_plan(truth_of(Path(sweep_dir)), verify=False)).failures()


def clock(secs: float) -> str:
    """Return seconds as `m:ss` or `h:mm:ss`."""
    whole = max(0, round(secs))
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
