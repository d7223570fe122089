"""One claimed run, or a set trained as one program, from its claim to its record: the child works, the leases stay alive."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unisc.config import to_plain
from unisc.errors import InputError
from unisc.files import make_folder, write_atomic
from unisc.sweep.board import is_cancelled
from unisc.sweep.child import RESULT
from unisc.sweep.lease import Lease
from unisc.sweep.plan import Run, run_folder
from unisc.sweep.process import Child, last_lines
from unisc.sweep.record import read_status, write_record, write_status
from unisc.sweep.settings import Settings
from unisc.sweep.store import Store

TICK_SECS = 0.2
STATUS_SECS = 2.0


@dataclass(slots=True)
class Claim:
    """A run this worker holds: its lease, and how often it was tried before."""

    run: Run
    lease: Lease
    failures: int
    takeovers: int
    frac_done: float = 0.0
    sections: dict[str, Any] | None = None
    """what the run left, once it is recorded"""
    is_settled: bool = False


@dataclass(slots=True)
class Attempt:
    """Runs under way in a child. `is_stopping` is asked at every tick; `cancel` is told that the sweep was called off."""

    settings: Settings
    store: Store
    child: Child
    claims: Sequence[Claim]
    is_stopping: Callable[[], bool]
    cancel: Callable[[], None]
    is_child_usable: bool = True

    def execute(self) -> None:
        """Work until every claim is settled: recorded, failed, lost to another worker, or saved and given back.

        Raises:
          InputError: a run found the user's mistake, a full disk, or a machine that is not what the profile wants.
        """
        first = self.claims[0].run
        self.child.start(
            {
                "experiment": first.experiment,
                "version": first.version,
                "prefixes": list(self.settings.prefixes),
                "platform": self.settings.platform,
                "runs": [self._request(claim.run) for claim in self.claims],
            }
        )
        try:
            self._wait()
        except BaseException:
            self.is_child_usable = False
            raise
        finally:
            if not self.is_child_usable:
                self.child.kill()

    def _request(self, run: Run) -> dict[str, Any]:
        folder = make_folder(run_folder(self._folder, run.fingerprint))
        log = self._log(run)
        if run != self.claims[0].run:
            write_atomic(log, f"trained with {self.claims[0].run.label}: see {self._log(self.claims[0].run)}\n")
        runtime = dataclasses.replace(self.settings.runtime, work_dir=str(folder / "work"))
        return {"fingerprint": run.fingerprint, "config": run.config, "runtime": to_plain(runtime), "log": str(log)}

    def _wait(self) -> None:
        started_at = time.time()
        beat_at = shown_at = -float("inf")
        kill_at: float | None = None
        while unsettled := [claim for claim in self.claims if not claim.is_settled]:
            now = time.monotonic()
            if now - beat_at >= self.settings.heartbeat_secs:
                beat_at = now
                for claim in unsettled:
                    if not claim.lease.beat():
                        claim.is_settled = True  # another worker has the run; what it records counts
                if is_cancelled(self.store):
                    self.cancel()
                if all(claim.is_settled for claim in unsettled):
                    self.is_child_usable = False
                    break
            if now - shown_at >= STATUS_SECS:
                shown_at = now
                for claim in (each for each in unsettled if not each.is_settled):
                    self._show(claim, "running", frac_done=claim.frac_done, started_at=started_at)
            for message in self.child.hear(TICK_SECS):
                self._take(message)
            if kill_at is None and self.is_stopping():
                kill_at = time.monotonic() + self.settings.save_secs
                self.child.ask_to_stop()
            if kill_at is not None and time.monotonic() >= kill_at:
                self._give_back()

    def _take(self, message: dict[str, Any]) -> None:
        kind = message["kind"]
        if kind == "stopped":  # the child was told to end and has saved what it could
            return self._give_back()
        if kind == "crash":
            self.is_child_usable = False
            for claim in self.claims:
                self._fail(claim, message["error"], with_tail=True)
            return None
        claim = next(each for each in self.claims if each.run.fingerprint == message["fingerprint"])
        if kind == "progress":
            claim.frac_done = message["frac_done"]
        elif claim.is_settled or claim.lease.is_lost():
            claim.is_settled = True
        elif kind == "result":
            write_record(self.store, claim.run, {**message["sections"], "attempts": claim.failures + 1})
            claim.sections, claim.is_settled = message["sections"], True
            (run_folder(self._folder, claim.run.fingerprint) / "work" / RESULT).unlink(missing_ok=True)
            self._show(claim, "done", frac_done=1.0)
        elif kind == "unfit":  # of the machine, not of the run
            self._give_back()
            raise InputError(message["error"])
        else:
            self.is_child_usable = False
            self._fail(claim, message["error"], is_final=message["is_input_error"], with_tail=not message["is_input_error"])
            if message["is_input_error"]:
                raise InputError(message["error"])
        return None

    def _fail(self, claim: Claim, error: str, *, is_final: bool = False, with_tail: bool) -> None:
        if claim.is_settled:
            return
        claim.is_settled = True
        claim.failures += 1
        tail = last_lines(self._log(self.claims[0].run)) if with_tail else []
        if tail and tail[-1] not in error:
            error = f"{error}; its last words: {tail[-1]}"
        is_final = is_final or claim.failures >= self.settings.max_attempts
        self._show(claim, "failed" if is_final else "pending", error=error, tail=tail)

    def _give_back(self) -> None:
        self.is_child_usable = False
        for claim in self.claims:
            if not claim.is_settled:
                claim.is_settled = True
                self._show(claim, "pending", frac_done=claim.frac_done)

    def _show(self, claim: Claim, state: Any, **fields: Any) -> None:
        fields = {"failures": claim.failures, "takeovers": claim.takeovers, **fields}
        write_status(self.store, claim.run.fingerprint, state, **fields)

    @property
    def _folder(self) -> Path:
        return Path(self.settings.sweep_dir)

    def _log(self, run: Run) -> Path:
        return run_folder(self._folder, run.fingerprint) / "log.txt"


def claimed(store: Store, run: Run, lease: Lease, *, max_takeovers: int) -> Claim | None:
    """Return the claim of a run just leased; None where it is given up, or has been in the meantime.

    A status that still says running tells that the claim before ended without a word: killed, or its machine lost.
    """
    status = read_status(store, run.fingerprint)
    if status["state"] == "failed":
        return None
    takeovers = status["takeovers"] + (status["state"] == "running")
    claim = Claim(run=run, lease=lease, failures=status["failures"], takeovers=takeovers)
    if takeovers <= max_takeovers:
        return claim
    error = f"{takeovers} workers died with it, killed or their machines lost; give its worker more memory and retry it"
    write_status(store, run.fingerprint, "failed", failures=claim.failures, takeovers=takeovers, error=error)
    return None
