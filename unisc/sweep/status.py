"""How a sweep stands: counts and the time left, read from its files alone."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from unisc.sweep.budget import Calibration, remaining_secs, secs_of
from unisc.sweep.lease import Observer
from unisc.sweep.plan import Run, read_plan, run_folder
from unisc.sweep.record import read_record, read_status

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

    def __str__(self) -> str:
        return f"{self.run.label} failed: {self.error} (its output: {self.log})"


@dataclass(slots=True)
class Monitor:
    """Watches one sweep; remembers which runs are done, so that a look costs by the runs that are not."""

    sweep_dir: Path
    runs: list[Run]
    observer: Observer = field(default_factory=lambda: Observer(stale_secs=60.0))
    finished: dict[str, float] = field(default_factory=dict)

    def look(self, *, num_workers: int | None = None) -> Summary:
        """Return the counts now; without `num_workers`, as many workers are assumed as runs are under way."""
        running: list[tuple[Run, dict]] = []
        waiting: list[Run] = []
        failed = 0
        for run in self.runs:
            if run.fingerprint in self.finished:
                continue
            record = read_record(self.sweep_dir, run.fingerprint)
            if record is not None:
                self.finished[run.fingerprint] = secs_of(record)
                continue
            status = read_status(self.sweep_dir, run.fingerprint)
            number, liveness = self.observer.look(run_folder(self.sweep_dir, run.fingerprint))
            if status["state"] == "running" and number and liveness in ("alive", "unknown"):
                running.append((run, status))
            elif status["state"] == "failed":
                failed += 1
            else:
                waiting.append(run)
        return Summary(
            total=len(self.runs),
            done=len(self.finished),
            running=len(running),
            failed=failed,
            pending=len(waiting),
            eta_secs=self._eta(running, waiting, num_workers or max(len(running), 1)),
        )

    def failures(self) -> list[Failure]:
        """Return the runs that failed for good."""
        found = []
        for run in self.runs:
            status = read_status(self.sweep_dir, run.fingerprint)
            if status["state"] == "failed" and read_record(self.sweep_dir, run.fingerprint) is None:
                log = run_folder(self.sweep_dir, run.fingerprint) / "log.txt"
                found.append(Failure(run=run, error=str(status["error"]), log=log))
        return found

    def _eta(self, running: list[tuple[Run, dict]], waiting: list[Run], num_workers: int) -> float | None:
        now = time.time()
        samples = [(run, self.finished[run.fingerprint]) for run in self.runs if run.fingerprint in self.finished]
        elapsed = {run.fingerprint: now - (status["started_at"] or now) for run, status in running}
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
    return Monitor(Path(sweep_dir), read_plan(Path(sweep_dir))).look()


def failures(sweep_dir: Path) -> list[Failure]:
    """Return the planned runs of a sweep directory that failed for good; raises as `summary` does."""
    return Monitor(Path(sweep_dir), read_plan(Path(sweep_dir))).failures()


def clock(secs: float) -> str:
    """Return seconds as `m:ss` or `h:mm:ss`."""
    whole = max(0, round(secs))
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
