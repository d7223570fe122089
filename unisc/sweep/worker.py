"""The worker: claim a run, execute it in the warm child, record it, and again, until nothing is claimable.

Any number of workers may serve one sweep directory, started by any launcher at any time; they agree through leases alone.
Run as `python -m unisc.sweep.worker SETTINGS`, SETTINGS being the JSON of `Settings`.
"""

import dataclasses
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from unisc.config import Runtime, from_json, to_plain
from unisc.errors import InputError
from unisc.files import dumps, make_folder, write_once
from unisc.sweep.budget import Budget, Calibration, secs_of
from unisc.sweep.child import die_with_parent
from unisc.sweep.follow import follow
from unisc.sweep.group import Leader, Place, place_of
from unisc.sweep.lease import Lease, Observer
from unisc.sweep.order import claim_order
from unisc.sweep.plan import DEFAULT_PREFIXES, Run, check_description, read_plan, run_folder
from unisc.sweep.process import Child, last_line
from unisc.sweep.record import quarantine_broken, read_record, read_status, write_record, write_status

EXIT_NOTHING_LEFT = 0
EXIT_INPUT_ERROR = 2
EXIT_BUDGET_SPENT = 3
EXIT_INTERRUPTED = 75
"""The "try again later" of sysexits.h: told to stop, everything released."""

TICK_SECS = 0.2
MAX_CHILD_BYTES = 3 * 2**29
"""A child that has grown beyond this gives way to a fresh one: programs and freed pages pile up in a warm process."""
STATUS_SECS = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What a worker is told when it starts. `parent_pid` names a process whose end is the worker's, if there is one.

    Of several hosts a worker, which train one run together, one is the worker and the others follow it (`unisc.sweep.group`).
    """

    sweep_dir: str
    runtime: Runtime
    num_workers: int = 1
    prefixes: tuple[str, ...] = DEFAULT_PREFIXES
    max_attempts: int = 2
    max_hours: float | None = None
    heartbeat_secs: float = 5.0
    stale_secs: float = 60.0
    parent_pid: int | None = None
    hosts_per_worker: int = 1


class Stopped(Exception):
    """The worker was told to stop, or lost its lease, while a run was under way."""


@dataclass(slots=True)
class Worker:
    """One worker's state between claims."""

    settings: Settings
    runs: list[Run]
    observer: Observer
    started: float = field(default_factory=time.monotonic)
    child: Child | None = None
    leader: Leader | None = None
    warm_keys: set[str] = field(default_factory=set)
    finished: dict[str, float] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    is_stopping: bool = False

    @property
    def sweep_dir(self) -> Path:
        """The sweep this worker serves."""
        return Path(self.settings.sweep_dir)

    def serve(self) -> int:
        """Execute runs until nothing is claimable; return the exit status that says why it ended."""
        try:
            while not self.is_stopping:
                if self.leader is not None and not self.leader.ready(lambda: self.is_stopping):
                    return EXIT_INTERRUPTED  # a host is missing, and no run is claimed meanwhile
                waiting, begun = self._waiting()
                if not waiting:
                    return EXIT_NOTHING_LEFT
                affordable = self._affordable(waiting)
                if not affordable:
                    return EXIT_BUDGET_SPENT
                claimed = self._claim(affordable, begun)
                if claimed is not None:
                    self._serve_one(*claimed)
                elif self._all_held(affordable):
                    return EXIT_NOTHING_LEFT
                else:
                    time.sleep(TICK_SECS)
            return EXIT_INTERRUPTED
        finally:
            self._drop_child()

    def _waiting(self) -> tuple[list[Run], set[str]]:
        """Runs neither done nor failed for good, and the compile keys that somebody has begun."""
        waiting, begun = [], set(self.warm_keys)
        for run in self.runs:
            if run.fingerprint not in self.finished:
                record = read_record(self.sweep_dir, run.fingerprint)
                if record is None:
                    status = read_status(self.sweep_dir, run.fingerprint)
                    self.failures[run.fingerprint] = status["failures"]
                    if status["state"] == "running":
                        begun.add(run.compile_key)
                    if status["state"] != "failed":
                        waiting.append(run)
                    continue
                self.finished[run.fingerprint] = secs_of(record)
            begun.add(run.compile_key)
        return waiting, begun

    def _affordable(self, waiting: list[Run]) -> list[Run]:
        calibration = Calibration.fit((r, self.finished[r.fingerprint]) for r in self.runs if r.fingerprint in self.finished)
        budget, elapsed = Budget(self.settings.max_hours), time.monotonic() - self.started
        return [run for run in waiting if budget.allows(run, elapsed, calibration)]

    def _claim(self, waiting: list[Run], begun: set[str]) -> tuple[Run, Lease] | None:
        """Claim the best run that is free. Each lost race teaches which key another worker has just begun."""
        waiting = list(waiting)
        while waiting and not self.is_stopping:
            run = claim_order(
                waiting,
                num_workers=self.settings.num_workers,
                warm_keys=self.warm_keys,
                begun_keys=begun,
                failures=self.failures,
            )[0]
            folder = run_folder(self.sweep_dir, run.fingerprint)
            lease = self.observer.claim(folder)
            if lease is not None:
                return run, lease
            waiting.remove(run)
            begun.add(run.compile_key)
        return None

    def _all_held(self, waiting: list[Run]) -> bool:
        """Whether every waiting run is in the hands of a worker known to live, so that there is nothing to wait for."""
        folders = (run_folder(self.sweep_dir, run.fingerprint) for run in waiting)
        return all(self.observer.look(folder)[1] == "alive" for folder in folders)

    def _serve_one(self, run: Run, lease: Lease) -> None:
        """Execute a claimed run and settle its lease, whatever happens."""
        folder = run_folder(self.sweep_dir, run.fingerprint)
        is_recorded = False
        try:
            # Another worker may have finished or given up the run between this one's look and its claim.
            is_recorded = read_record(self.sweep_dir, run.fingerprint) is not None
            status = read_status(self.sweep_dir, run.fingerprint)
            if is_recorded or status["state"] == "failed":
                return
            if check_description(folder, run) is None:
                write_once(folder / "config.json", dumps(run.description))
            quarantine_broken(self.sweep_dir, run.fingerprint)
            is_recorded = self._execute(run, lease, status["failures"])
        except Stopped:
            self._drop_child()
        finally:
            if is_recorded:
                lease.finish()
            else:
                lease.release()

    def _execute(self, run: Run, lease: Lease, failures: int) -> bool:
        """Execute one run in the child and write its record or its failure; return whether it is recorded."""
        folder = run_folder(self.sweep_dir, run.fingerprint)
        log = folder / "log.txt"
        if self.child is None:
            self.child, self.warm_keys = Child() if self.leader is None else self.leader.child(), set()
        runtime = dataclasses.replace(self.settings.runtime, work_dir=str(folder / "work"))
        self.child.start(
            {
                "fingerprint": run.fingerprint,
                "experiment": run.experiment,
                "version": run.version,
                "config": run.config,
                "runtime": to_plain(runtime),
                "log": str(log),
                "prefixes": list(self.settings.prefixes),
            }
        )
        outcome = self._wait(run, lease, failures)
        if outcome["kind"] == "result":
            self.warm_keys.add(run.compile_key)
            sections = outcome["sections"]
            write_record(self.sweep_dir, run, {**sections, "attempts": failures + 1})
            write_status(self.sweep_dir, run.fingerprint, "done", failures=failures, frac_done=1.0)
            if (sections.get("timing", {}).get("peak_memory_bytes") or 0) > MAX_CHILD_BYTES:
                self._drop_child()
            return True
        self._drop_child()
        error = outcome["error"]
        if outcome["kind"] == "crash" and (line := last_line(log)):
            error = f"{error}; its last words: {line}"
        is_input = bool(outcome.get("is_input_error"))
        is_final = is_input or failures + 1 >= self.settings.max_attempts
        state = "failed" if is_final else "pending"
        write_status(self.sweep_dir, run.fingerprint, state, failures=failures + 1, error=error)
        if is_input:
            raise InputError(error)
        return False

    def _wait(self, run: Run, lease: Lease, failures: int) -> dict:
        """Keep the lease and the status fresh until the child answers; raise Stopped when the run must be given up."""
        assert self.child is not None
        started_at, frac_done = time.time(), 0.0
        beat_at = shown_at = -float("inf")
        while True:
            now = time.monotonic()
            if now - beat_at >= self.settings.heartbeat_secs:
                beat_at = now
                if not lease.beat():
                    raise Stopped
            if now - shown_at >= STATUS_SECS:
                shown_at = now
                fields = {"failures": failures, "frac_done": frac_done, "started_at": started_at}
                write_status(self.sweep_dir, run.fingerprint, "running", **fields)
            for message in self.child.hear(TICK_SECS):
                if message["kind"] == "progress":
                    frac_done = message["frac_done"]
                elif lease.is_lost():
                    raise Stopped  # another worker has the run; its record counts
                else:
                    return message
            if self.is_stopping:
                write_status(self.sweep_dir, run.fingerprint, "pending", failures=failures)
                raise Stopped

    def _drop_child(self) -> None:
        if self.child is not None:
            self.child.stop()
        self.child, self.warm_keys = None, set()


def serve_in_group(worker: Worker, place: Place) -> int:
    """Lead or follow the other hosts of a group; return the exit status."""
    if place.rank > 0:
        return follow(worker.sweep_dir, place, lambda: worker.is_stopping)

    def stop() -> None:
        worker.is_stopping = True

    worker.leader, status = Leader(worker.sweep_dir, place, on_stop=stop), EXIT_INPUT_ERROR
    try:
        status = worker.serve()
    finally:
        worker.leader.end(status)
    return status


def main() -> int:
    """Serve the sweep that the settings on the command line name."""
    settings = from_json(Settings, sys.argv[1])
    try:
        sweep_dir = Path(settings.sweep_dir)
        make_folder(sweep_dir / "runs")
        place = place_of(settings.hosts_per_worker)
        worker = Worker(settings=settings, runs=read_plan(sweep_dir), observer=Observer(stale_secs=settings.stale_secs))

        def stop(number: int, frame: object) -> None:
            worker.is_stopping = True

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        if settings.parent_pid is not None:
            die_with_parent(settings.parent_pid, signal.SIGTERM)
        if place is not None:
            return serve_in_group(worker, place)
        return worker.serve()
    except InputError as e:
        try:
            print(e, file=sys.stderr, flush=True)
        except BrokenPipeError:
            os._exit(EXIT_INPUT_ERROR)
        return EXIT_INPUT_ERROR


if __name__ == "__main__":
    raise SystemExit(main())
