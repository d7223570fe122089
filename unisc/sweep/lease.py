"""One worker a run: claims by exclusive creation, heartbeats, and takeover of what a dead worker left.

A run's claims are numbered texts `lease/000001`, `lease/000002`, ... each created exactly once (`Store.create`) and afterwards
written only by its creator, so no two processes ever write one of them and there is nothing to race for but the creation of
the next number. The highest number owns the run. It may be followed by the next number once it is released, or once it is
stale: its heartbeat (a random nonce and a counter; never a clock) has not changed for `stale_secs` of the *observer's* time, or
its process is known to be dead because it ran on this very machine. An owner that finds a higher number has lost the run.
Claims go away only after the run's record exists, which every claimer looks for again once it holds a lease.
"""

import functools
import os
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from unisc.errors import InputError
from unisc.files import dumps, object_in
from unisc.sweep.store import Store, store_of

Liveness = Literal["free", "alive", "unknown", "stale"]


@dataclass(slots=True)
class Lease:
    """A claim this process holds on the run whose folder `store` is; `beat` often, then `release` or `finish` once."""

    store: Store
    number: int
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
        """Return whether a later claim exists, or this one no longer does."""
        return _highest(self.store) != self.number

    def release(self) -> None:
        """Let the next claimer have the run."""
        if self.is_lost():
            return
        try:
            self._write(released=True)
        except InputError:
            self.store.remove(_name(self.number))  # a full disk: no claim at all is as good as a released one

    def finish(self) -> None:
        """Remove the claims of a run whose record is written; a late claimer finds the record and cleans up."""
        self.store.remove("lease")

    def _write(self, *, released: bool) -> None:
        self.store.replace(_name(self.number), dumps(_content(self.nonce, self.counter, released=released)))


@dataclass(slots=True)
class Observer:
    """What one process has seen of others' heartbeats, on its own monotonic clock."""

    stale_secs: float
    seen: dict[str, tuple[object, float]] = field(default_factory=dict)

    def look(self, run_folder: Store | Path) -> tuple[int, Liveness]:
        """Return the number of a run's last claim (0 where none) and what is known of its owner.

        "unknown" means that the heartbeat has been watched for too short a time to tell.
        """
        store = store_of(run_folder)
        number = _highest(store)
        if number == 0:
            return 0, "free"
        content = object_in(store.read(_name(number))) or {}
        if content.get("released"):
            return number, "free"
        if content.get("machine") == (machine() or "unknown") and isinstance(content.get("pid"), int):
            alive = process_started(content["pid"]) == content.get("process_started")
            return number, "alive" if alive else "stale"
        beat, now, key = (content.get("nonce"), content.get("counter")), time.monotonic(), store.show(_name(number))
        before, since = self.seen.get(key, (None, now))
        if before is None:
            self.seen[key] = (beat, now)
            return number, "unknown"
        if before != beat:
            self.seen[key] = (beat, now)
            return number, "alive"
        return number, "stale" if now - since >= self.stale_secs else "unknown"

    def claim(self, run_folder: Store | Path) -> Lease | None:
        """Claim a run, or return None where it is held or another claimer was faster."""
        store = store_of(run_folder)
        number, liveness = self.look(store)
        if liveness not in ("free", "stale"):
            return None
        nonce = secrets.token_hex(8)
        if not store.create(_name(number + 1), dumps(_content(nonce, 0, released=False)), durable=False):
            return None
        return Lease(store=store, number=number + 1, nonce=nonce)


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


def _name(number: int) -> str:
    return f"lease/{number:06d}"


def _highest(store: Store) -> int:
    return max((int(name) for name in store.names("lease") if name.isdecimal()), default=0)
