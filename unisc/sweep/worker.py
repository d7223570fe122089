"""The worker: claim a run, execute it in the warm child, record it, and again, until nothing is claimable.

Any number of workers may serve one sweep directory, started by any launcher at any time; they agree through leases alone.
Run as `python -m unisc.sweep.worker --sweep DIR`; DIR/settings.json, the JSON of `Settings`, says how.
"""

import argparse
import dataclasses
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from unisc.errors import InputError
from unisc.files import dumps, make_folder
from unisc.sweep.attempt import TICK_SECS, Attempt, Claim, claimed
from unisc.sweep.board import Board
from unisc.sweep.budget import secs_of
from unisc.sweep.child import die_with_parent
from unisc.sweep.follow import follow
from unisc.sweep.group import Leader, Place, place_of
from unisc.sweep.lease import Lease, Observer
from unisc.sweep.plan import Run, check_description, read_plan, run_store
from unisc.sweep.process import Child
from unisc.sweep.record import quarantine_broken, read_record
from unisc.sweep.settings import Settings, read_settings, write_settings
from unisc.sweep.store import Store

__all__ = ["Settings", "Worker", "main", "read_settings", "write_settings"]

EXIT_NOTHING_LEFT = 0
EXIT_INPUT_ERROR = 2
EXIT_BUDGET_SPENT = 3
EXIT_INTERRUPTED = 75
"""The "try again later" of sysexits.h, to a launcher: requeue me. Told to stop; everything is saved and released."""

MAX_CHILD_BYTES = 3 * 2**29
"""A child that has grown beyond this gives way to a fresh one: programs and freed pages pile up in a warm process."""


@dataclass(slots=True)
class Worker:
    """One worker's state between claims."""

    settings: Settings
    store: Store
    board: Board
    observer: Observer
    child: Child | None = None
    leader: Leader | None = None
    warm_keys: set[str] = field(default_factory=set)
    is_stopping: bool = False
    is_cancelled: bool = False

    @classmethod
    def of(cls, settings: Settings, store: Store | None = None) -> "Worker":
        """Return a worker for the sweep that the settings name; raises InputError where there is no plan."""
        store = store or settings.truth
        board = Board(store=store, runs=read_plan(store), settings=settings)
        return cls(settings=settings, store=store, board=board, observer=Observer(stale_secs=settings.stale_secs))

    def serve(self) -> int:
        """Execute runs until nothing is claimable; return the exit status that says why it ended."""
        try:
            while not self.is_stopping:
                if self.leader is not None and not self.leader.ready(lambda: self.is_stopping):
                    return EXIT_INTERRUPTED  # a host is missing, and no run is claimed meanwhile
                has_looked = self.board.look()
                if self.board.is_cancelled or (has_looked and not self.board.waiting):
                    return EXIT_NOTHING_LEFT
                if claims := self._claim():
                    self._serve(claims)
                elif not has_looked:
                    self.board.look(now=True)  # what this worker knew of is done or held; the files may know better
                    if (code := self._why_idle()) is not None:
                        return code
                    time.sleep(TICK_SECS)
            return EXIT_NOTHING_LEFT if self.is_cancelled else EXIT_INTERRUPTED
        finally:
            self._drop_child()

    def _why_idle(self) -> int | None:
        """Return the exit status of a worker that has nothing to wait for; None where something may become free."""
        waiting = self.board.waiting.values()
        if not waiting:
            return EXIT_NOTHING_LEFT
        if all(self.observer.look(run_store(self.store, run.fingerprint))[1] == "alive" for run in waiting):
            return EXIT_NOTHING_LEFT  # every one is in the hands of a worker known to live
        return None if self.board.has_affordable() else EXIT_BUDGET_SPENT

    def _claim(self) -> list[tuple[Run, Lease]]:
        """Claim the best run that is free, and with it those to train as one program; none where nothing is free.

        Each lost race teaches which key another worker has just begun.
        """
        while not self.is_stopping and (run := self.board.next(self.warm_keys)) is not None:
            lease = self.observer.claim(run_store(self.store, run.fingerprint))
            self.board.begun_keys.add(run.compile_key)
            if lease is not None:
                others = self.board.like(run) if self.settings.pack_limit > 1 else []
                more = [(other, self.observer.claim(run_store(self.store, other.fingerprint))) for other in others]
                return [(run, lease), *((other, held) for other, held in more if held is not None)]
        return []

    def _serve(self, leases: list[tuple[Run, Lease]]) -> None:
        """Execute claimed runs and settle their leases, whatever happens."""
        claims: list[Claim] = []
        recorded: set[str] = set()
        try:
            for run, lease in leases:
                # Another worker may have finished or given up the run between this one's look and its claim.
                record = read_record(self.store, run.fingerprint)
                if record is not None:
                    recorded.add(run.fingerprint)
                    self.board.finish(run, secs_of(record))
                    continue
                if check_description(self.store, run.fingerprint, run) is None:
                    own = run_store(self.store, run.fingerprint)
                    own.create("config.json", dumps(run.description), durable=False)  # the plan has it too
                quarantine_broken(self.store, run.fingerprint)
                claim = claimed(self.store, run, lease, max_takeovers=self.settings.max_takeovers)
                if claim is not None:
                    claims.append(claim)
            if claims:
                self._execute(claims)
        finally:
            for claim in claims:
                if claim.sections is not None:
                    recorded.add(claim.run.fingerprint)
                    self.board.finish(claim.run, secs_of(claim.sections))
            for run, lease in leases:
                if run.fingerprint in recorded:
                    lease.finish()
                else:
                    lease.release()

    def _execute(self, claims: list[Claim]) -> None:
        if self.child is None:
            self.child, self.warm_keys = Child() if self.leader is None else self.leader.child(), set()

        def cancel() -> None:
            self.is_stopping = self.is_cancelled = True

        attempt = Attempt(
            settings=self.settings,
            store=self.store,
            child=self.child,
            claims=claims,
            is_stopping=lambda: self.is_stopping,
            cancel=cancel,
        )
        try:
            attempt.execute()
        finally:
            if not attempt.is_child_usable:
                self.child, self.warm_keys = None, set()
        for claim in claims:
            if claim.sections is not None:
                self.warm_keys.add(claim.run.compile_key)
        peak = max(((c.sections or {}).get("timing", {}).get("peak_memory_bytes") or 0) for c in claims)
        if peak > MAX_CHILD_BYTES:
            self._drop_child()

    def _drop_child(self) -> None:
        if self.child is not None:
            self.child.stop()
        self.child, self.warm_keys = None, set()


def serve_in_group(worker: Worker, place: Place) -> int:
    """Lead or follow the other hosts of a group; return the exit status."""
    folder = Path(worker.settings.sweep_dir)
    if place.rank > 0:
        return follow(folder, place, lambda: worker.is_stopping)

    def stop() -> None:
        worker.is_stopping = True

    worker.leader, status = Leader(folder, place, on_stop=stop), EXIT_INPUT_ERROR
    try:
        status = worker.serve()
    finally:
        worker.leader.end(status)
    return status


def main() -> int:
    """Serve the sweep that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m unisc.sweep.worker", description=__doc__)
    parser.add_argument("--sweep", type=Path, required=True, help="folder of the sweep")
    parser.add_argument("--parent-pid", type=int, help="process whose end is this worker's")
    parser.add_argument("--max-hours", type=float, help="wall-clock hours, in place of the settings'")
    args = parser.parse_args()
    try:
        settings = read_settings(args.sweep.absolute())
        settings = dataclasses.replace(settings, parent_pid=args.parent_pid, max_hours=args.max_hours or settings.max_hours)
        make_folder(Path(settings.sweep_dir) / "runs")
        place = place_of(settings.hosts_per_worker)
        worker = Worker.of(settings)

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
