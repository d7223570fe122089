"""Hosts that train one run together: the leader serves the sweep, the others follow it and never touch a lease.

Every host runs the same worker command. Host 0 of a group leads: it leaves its address in `groups/<group>/leader.json`, waits
for the others to call, claims runs, and has each run executed by a child on every host; the children meet at a port of the
leader's (`unisc.distributed`). What is said goes over one connection a follower, whose end is the end of whoever held it: a
leader that dies ends its followers; a follower that dies fails the attempt, and the leader waits for it to be started again.
"""

import contextlib
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unisc.errors import InputError
from unisc.files import dumps, make_folder, write_atomic
from unisc.sweep.process import Child
from unisc.wire import Wire, accept, listen

JOIN_SECS = 600.0
SETTLE_SECS = 60.0
"""How long the other hosts may take to end a run that the leader has ended."""
CAUSE_SECS = 1.0
TICK_SECS = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Which group a host is in, and which of its `size` hosts it is."""

    group: str
    rank: int
    size: int

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise InputError(f"group {self.group}: host {self.rank} of {self.size}; number them from 0 to {self.size - 1}")
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", self.group):
            raise InputError(f"group {self.group!r}: not a name; give letters, digits, '-', '_' and '.'")


def place_of(size: int, environ: Mapping[str, str] = os.environ) -> Place | None:
    """Return this host's place among `size` that train together, None if each is on its own.

    From UNISC_GROUP and UNISC_GROUP_RANK, else from Slurm (`size` tasks of a job a group), else from an indexed Kubernetes Job.

    Raises:
      InputError: none of these is set, or a rank that is not one.
    """
    if size == 1:
        return None
    try:
        if "UNISC_GROUP" in environ:
            return Place(group=environ["UNISC_GROUP"], rank=int(environ["UNISC_GROUP_RANK"]), size=size)
        if "SLURM_PROCID" in environ:
            group, rank = divmod(int(environ["SLURM_PROCID"]), size)
            return Place(group=f"slurm-{environ['SLURM_JOB_ID']}-{group}", rank=rank, size=size)
        if "JOB_COMPLETION_INDEX" in environ:
            group, rank = divmod(int(environ["JOB_COMPLETION_INDEX"]), size)
            return Place(group=f"{environ['HOSTNAME'].rpartition('-')[0]}-{group}", rank=rank, size=size)
    except (KeyError, ValueError) as e:
        if isinstance(e, InputError):
            raise
        raise InputError(f"hosts_per_worker {size}: this host's place is not understood ({e}); set UNISC_GROUP_RANK") from e
    raise InputError(
        f"hosts_per_worker {size}: this host has no place in a group; start it by srun or an indexed Job, or set UNISC_GROUP"
        " and UNISC_GROUP_RANK"
    )


def address_file(sweep_dir: Path, group: str) -> Path:
    """Return where a group's leader says how to reach it."""
    return sweep_dir / "groups" / group / "leader.json"


class Leader:
    """Host 0 of a group: `ready` waits for the others, `child` starts one on each; `on_stop` hears of one told to end."""

    def __init__(self, sweep_dir: Path, place: Place, *, on_stop: Callable[[], None]):
        self.place, self.on_stop = place, on_stop
        self.wires: dict[int, Wire] = {}
        self.num_runs = 0
        self._server, self._nonce = listen(), secrets.token_hex(8)
        path = address_file(sweep_dir, place.group)
        make_folder(path.parent)
        content = {"hosts": _names(), "port": self._server.getsockname()[1], "nonce": self._nonce}
        write_atomic(path, dumps(content))

    def ready(self, is_stopping: Callable[[], bool], *, join_secs: float = JOIN_SECS) -> bool:
        """Wait until every follower is there, and say so; False after `join_secs`, or once told to stop."""
        until = time.monotonic() + join_secs
        while not is_stopping():
            self.wires = {rank: wire for rank, wire in self.wires.items() if wire.is_open and not _rest(wire)}
            if len(self.wires) == self.place.size - 1:
                return True
            if time.monotonic() >= until:
                return False
            wire = accept(self._server, TICK_SECS)
            if wire is not None:
                self._welcome(wire)
        return False

    def _welcome(self, wire: Wire) -> None:
        hello = wire.hear_one(2.0) or {}
        rank = hello.get("rank")
        if hello.get("nonce") != self._nonce or not isinstance(rank, int) or not 0 < rank < self.place.size:
            wire.close()
        elif rank in self.wires:
            wire.send({"kind": "refused", "why": f"group {self.place.group}: two hosts of number {rank}; number each once"})
            wire.close()
        else:
            wire.send({"kind": "welcome"})
            self.wires[rank] = wire

    def child(self) -> "GroupChild":
        """Start a child on every host."""
        return GroupChild(self)

    def end(self, status: int) -> None:
        """Send the followers home with the leader's exit status."""
        for wire in self.wires.values():
            wire.send({"kind": "end", "status": status})
            wire.close()
        self._server.close()


class GroupChild(Child):
    """A child on every host of a group, to the leader as if it were one: a failure of any is a failure of it."""

    def __init__(self, leader: Leader):
        with listen() as free:
            port = free.getsockname()[1]
        self._leader = leader
        self._forget()
        self._tell({"kind": "start", "port": port})
        super().__init__(f"localhost:{port}", str(leader.place.size), "0")

    def start(self, request: Mapping[str, Any]) -> None:
        self._forget()
        self._leader.num_runs += 1  # so that what is said of one run is not taken for another's
        self._tell({"kind": "run", "request": dict(request), "number": self._leader.num_runs})
        super().start(request)

    def hear(self, timeout_secs: float) -> list[dict[str, Any]]:
        messages = super().hear(0.0 if self._held else timeout_secs)
        last = next((message for message in messages if message["kind"] in ("error", "crash")), None)
        if last is not None and not last.get("is_input_error"):
            # Who is left behind fails as well, and mostly first; whose fault it is comes a moment later.
            return [self._failure(CAUSE_SECS) or last]
        failure = self._failure(TICK_SECS if self._held else 0.0)
        if failure is not None:
            return [failure]
        self._held += [message for message in messages if message["kind"] == "result"]
        messages = [message for message in messages if message["kind"] != "result"]
        while self._held and all(count > self._num_given for count in self._settled.values()):
            messages.append(self._held.pop(0))
            self._num_given += 1
            self._until = time.monotonic() + SETTLE_SECS
        if self._held and time.monotonic() > self._until:
            return [{"kind": "crash", "error": f"group: not all hosts ended the run within {SETTLE_SECS:g} s of the first"}]
        if not self._held:
            self._until = time.monotonic() + SETTLE_SECS
        return messages

    def _forget(self) -> None:
        """Begin with no results: those of the leader are held until every follower has as many."""
        self._held: list[dict[str, Any]] = []
        self._num_given, self._settled = 0, dict.fromkeys(self._leader.wires, 0)
        self._until = time.monotonic() + SETTLE_SECS

    def _failure(self, timeout_secs: float) -> dict[str, Any] | None:
        """Read what followers say, for a while; return the first failure among it."""
        until = time.monotonic() + timeout_secs
        while True:
            for rank, wire in self._leader.wires.items():
                for message in wire.hear(0.0):
                    if message.get("kind") == "stopping":
                        self._leader.on_stop()
                    elif message.get("number") != self._leader.num_runs:
                        continue
                    elif message.get("kind") == "result":
                        self._settled[rank] += 1
                    elif message.get("error") is not None:
                        return {"kind": "crash", "error": f"host {rank} of the group: {message['error']}"}
                if not wire.is_open:
                    return {"kind": "crash", "error": f"host {rank} of the group is gone"}
            if time.monotonic() >= until or all(count > self._num_given for count in self._settled.values()):
                return None
            time.sleep(0.02)

    def ask_to_stop(self) -> None:
        self._tell({"kind": "ask"})
        super().ask_to_stop()

    def stop(self) -> None:
        self._tell({"kind": "stop"})
        super().stop()

    def kill(self) -> None:
        self._tell({"kind": "stop"})
        super().kill()

    def _tell(self, message: Mapping[str, Any]) -> None:
        for wire in self._leader.wires.values():
            wire.send(message)


def _rest(wire: Wire) -> bool:
    """Read what was said between runs, which nobody needs any more; say whether the wire has ended."""
    while wire.hear(0.0):
        pass
    return not wire.is_open


def _names() -> list[str]:
    """Names and addresses by which other hosts may reach this one, likeliest first; UNISC_GROUP_HOST before all."""
    names = [os.environ.get("UNISC_GROUP_HOST", ""), socket.gethostname(), socket.getfqdn()]
    with contextlib.suppress(OSError):
        names.append(socket.gethostbyname(socket.gethostname()))
    return list(dict.fromkeys(name for name in names if name))
