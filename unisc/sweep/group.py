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
from unisc.files import dumps, make_folder, read_object, write_atomic
from unisc.sweep.process import Child
from unisc.wire import Wire, accept, dial, listen

JOIN_SECS = 600.0
SETTLE_SECS = 60.0
"""How long the other hosts may take to end a run that the leader has ended."""
CAUSE_SECS = 1.0
TICK_SECS = 0.2
EXIT_AGAIN = 75
"""The worker's "try again later": what was begun is released."""


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
        f"hosts_per_worker {size}: this host has no place in a group; start it by srun or an indexed Job, or set UNISC_GROUP and"
        " UNISC_GROUP_RANK"
    )


def _address_file(sweep_dir: Path, group: str) -> Path:
    return sweep_dir / "groups" / group / "leader.json"


class Leader:
    """Host 0 of a group: `ready` waits for the others, `child` starts one on each; `on_stop` hears of one told to end."""

    def __init__(self, sweep_dir: Path, place: Place, *, on_stop: Callable[[], None]):
        self.place, self.on_stop = place, on_stop
        self.wires: dict[int, Wire] = {}
        self.num_runs = 0
        self._server, self._nonce = listen(), secrets.token_hex(8)
        path = _address_file(sweep_dir, place.group)
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
        hello = next(iter(wire.hear(2.0)), {})
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
        self._leader, size = leader, leader.place.size
        self._told: dict[str, Any] | None = None
        self._settled: set[int] = set()
        for wire in leader.wires.values():
            wire.send({"kind": "start", "port": port})
        super().__init__(f"localhost:{port}", str(size), "0")

    def start(self, request: Mapping[str, Any]) -> None:
        self._told, self._settled = None, set()
        self._leader.num_runs += 1  # so that what is said of one run is not taken for another's
        for wire in self._leader.wires.values():
            wire.send({"kind": "run", "request": dict(request), "number": self._leader.num_runs})
        super().start(request)

    def hear(self, timeout_secs: float) -> list[dict[str, Any]]:
        messages = super().hear(timeout_secs if self._told is None else 0.0)
        last = next((message for message in messages if message["kind"] != "progress"), None)
        if last is not None and last["kind"] != "result":
            # Who is left behind fails as well, and mostly first; whose fault it is comes a moment later.
            return messages if last.get("is_input_error") else [self._failure(CAUSE_SECS) or last]
        failure = self._failure(TICK_SECS if self._told is not None else 0.0)
        if failure is not None:
            return [failure]
        if last is not None:
            self._told, self._until = last, time.monotonic() + SETTLE_SECS
            messages.remove(last)
        if self._told is not None:
            if len(self._settled) == self._leader.place.size - 1:
                return [*messages, self._told]
            if time.monotonic() > self._until:
                return [{"kind": "crash", "error": f"group: not all hosts ended the run within {SETTLE_SECS:g} s of the first"}]
        return messages

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
                        self._settled.add(rank)
                    elif message.get("kind") in ("crash", "error"):
                        return {"kind": "crash", "error": f"host {rank} of the group: {message.get('error')}"}
                if not wire.is_open:
                    return {"kind": "crash", "error": f"host {rank} of the group is gone"}
            if time.monotonic() >= until or len(self._settled) == self._leader.place.size - 1:
                return None
            time.sleep(0.02)

    def stop(self) -> None:
        for wire in self._leader.wires.values():
            wire.send({"kind": "stop"})
        super().stop()


def follow(sweep_dir: Path, place: Place, is_stopping: Callable[[], bool], *, join_secs: float = JOIN_SECS) -> int:
    """Do what the group's leader says until it ends or dies; return the exit status.

    Raises:
      InputError: no leader within `join_secs`, or one that has a host of this number already.
    """
    wire = _call(sweep_dir, place, is_stopping, time.monotonic() + join_secs)
    if wire is None:
        if is_stopping():
            return EXIT_AGAIN
        where = _address_file(sweep_dir, place.group)
        raise InputError(f"group {place.group}: no leader at {where} within {join_secs:g} s; start host 0 of the group")
    child: Child | None = None
    number = 0
    try:
        while wire.is_open and not is_stopping():
            for message in wire.hear(TICK_SECS):
                if message["kind"] == "end":
                    return int(message["status"])
                if message["kind"] in ("start", "stop") and child is not None:
                    child.stop()
                    child = None
                if message["kind"] == "start":
                    child = Child(wire.address(message["port"]), str(place.size), str(place.rank))
                elif message["kind"] == "run":
                    request, number = message["request"], message["number"]
                    if child is None:
                        wire.send({"kind": "crash", "error": "its process died between two runs", "number": number})
                        continue
                    log = Path(request["log"])
                    child.start({**request, "log": str(log.with_name(f"{log.stem}-{place.rank}{log.suffix}"))})
            for told in child.hear(0.0) if child is not None else ():
                if told["kind"] != "progress":
                    wire.send({name: value for name, value in told.items() if name != "sections"} | {"number": number})
                if told["kind"] == "crash" and child is not None:
                    child.stop()
                    child = None
        wire.send({"kind": "stopping"})
        return EXIT_AGAIN
    finally:
        if child is not None:
            child.stop()
        wire.close()


def _call(sweep_dir: Path, place: Place, is_stopping: Callable[[], bool], until: float) -> Wire | None:
    """Call the group's leader where it says it is; one that has died may still be named, so that answers are waited for."""
    while time.monotonic() < until and not is_stopping():
        found = read_object(_address_file(sweep_dir, place.group)) or {}
        for host in found.get("hosts", []):
            wire = dial(host, found["port"], min(until, time.monotonic() + 2.0))
            if wire is None:
                continue
            wire.send({"nonce": found["nonce"], "rank": place.rank})
            while wire.is_open and time.monotonic() < until and not is_stopping():
                for message in wire.hear(TICK_SECS):
                    if message.get("kind") == "welcome":
                        return wire
                    raise InputError(str(message.get("why")))
            wire.close()
        time.sleep(TICK_SECS)
    return None


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
