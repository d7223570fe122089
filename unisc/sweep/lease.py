"""One worker a run: claims by exclusive creation, heartbeats, and takeover of what a dead worker left.

A run's claims are numbered files `lease/000001`, `lease/000002`, ... each created exactly once (O_EXCL) and afterwards
written only by its creator, so no two processes ever write one file and there is nothing to race for but the creation of
the next number. The highest number owns the run. It may be followed by the next number once it is released, or once it is
stale: its heartbeat (a random nonce and a counter; never a clock) has not changed for `stale_secs` of the *observer's* time, or
its process is known to be dead because it ran on this very machine. An owner that finds a higher number has lost the run.
Files go away only after the run's record exists, which every claimer looks for again once it holds a lease.
"""

import functools
import os
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from unisc.errors import InputError
from unisc.files import dumps, explained, make_folder, read_object, replace_quickly

Liveness = Literal["free", "alive", "unknown", "stale"]


@dataclass(slots=True)
class Lease:
    """A claim this process holds; `beat` often, then `release` or `finish` once."""

    path: Path
    nonce: str
    counter: int = 0

    def beat(self) -> bool:
        """Show that the owner lives; return False once another worker has taken the run over."""
        if self.is_lost():
            return False
        self.counter += 1
        try:
            self._write(released=False)
        except InputError:
            pass  # a full disk ends the run where it matters, at its record; a beat may be late
        return True

    def is_lost(self) -> bool:
        """Return whether a later claim exists."""
        return _highest(self.path.parent) != int(self.path.name)

    def release(self) -> None:
        """Let the next claimer have the run."""
        if self.is_lost():
            return
        try:
            self._write(released=True)
        except InputError:
            self.path.unlink(missing_ok=True)  # a full disk: no claim at all is as good as a released one

    def finish(self) -> None:
        """Remove the claims of a run whose record is written."""
        try:
            for path in self.path.parent.iterdir():
                path.unlink(missing_ok=True)
            self.path.parent.rmdir()
        except OSError:
            pass  # a late claimer is here as well; it will find the record and clean up

    def _write(self, *, released: bool) -> None:
        replace_quickly(self.path, dumps(_content(self.nonce, self.counter, released=released)))


@dataclass(slots=True)
class Observer:
    """What one process has seen of others' heartbeats, on its own monotonic clock."""

    stale_secs: float
    seen: dict[Path, tuple[object, float]] = field(default_factory=dict)

    def look(self, run_folder: Path) -> tuple[int, Liveness]:
        """Return the number of a run's last claim (0 where none) and what is known of its owner.

        "unknown" means that the heartbeat has been watched for too short a time to tell.
        """
        folder = run_folder / "lease"
        number = _highest(folder)
        if number == 0:
            return 0, "free"
        path = folder / _file_name(number)
        content = read_object(path) or {}
        if content.get("released"):
            return number, "free"
        if content.get("machine") == (machine() or "unknown") and isinstance(content.get("pid"), int):
            alive = process_started(content["pid"]) == content.get("process_started")
            return number, "alive" if alive else "stale"
        beat, now = (content.get("nonce"), content.get("counter")), time.monotonic()
        before, since = self.seen.get(path, (None, now))
        if before is None:
            self.seen[path] = (beat, now)
            return number, "unknown"
        if before != beat:
            self.seen[path] = (beat, now)
            return number, "alive"
        return number, "stale" if now - since >= self.stale_secs else "unknown"

    def claim(self, run_folder: Path) -> Lease | None:
        """Claim a run, or return None where it is held or another claimer was faster."""
        number, liveness = self.look(run_folder)
        if liveness not in ("free", "stale"):
            return None
        folder = make_folder(run_folder / "lease")
        path, nonce = folder / _file_name(number + 1), secrets.token_hex(8)
        with explained(path):
            try:
                handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
            except (FileExistsError, FileNotFoundError):  # taken, or finished and removed, a moment ago
                return None
            with os.fdopen(handle, "w", encoding="utf-8") as f:
                f.write(dumps(_content(nonce, 0, released=False)))
        return Lease(path=path, nonce=nonce)


@functools.cache
def machine() -> str | None:
    """Return a name for this boot of this machine's process table, equal only where process ids can be compared."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def process_started(pid: int) -> int | None:
    """Return a live process's start in clock ticks since boot, which tells it from a later one of the same id."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *rest = stat[stat.rindex(")") + 2 :].split()
    return None if state in "ZX" else int(rest[18])


def _content(nonce: str, counter: int, *, released: bool) -> dict[str, object]:
    return {
        "nonce": nonce,
        "counter": counter,
        "released": released,
        "machine": machine(),
        "pid": os.getpid(),
        "process_started": process_started(os.getpid()),
    }


def _file_name(number: int) -> str:
    return f"{number:06d}"


def _highest(folder: Path) -> int:
    try:
        return max((int(path.name) for path in folder.iterdir() if path.name.isdecimal()), default=0)
    except (FileNotFoundError, NotADirectoryError):
        return 0
