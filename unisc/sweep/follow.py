"""A follower of a group: it executes what the leader says, as one process of a run, and leaves the truth of a sweep alone."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from unisc.errors import InputError
from unisc.files import read_object
from unisc.sweep.group import JOIN_SECS, TICK_SECS, Place, address_file
from unisc.sweep.process import Child
from unisc.wire import Wire, dial

STOP_SECS = 60.0
"""How long a follower that is told to stop waits for the leader's word."""
EXIT_AGAIN = 75
"""The worker's "try again later": what was begun is released."""


def follow(sweep_dir: Path, place: Place, is_stopping: Callable[[], bool], *, join_secs: float = JOIN_SECS) -> int:
    """Do what the group's leader says until it ends or dies; return the exit status.

    A follower that is told to stop says so, and goes on until the leader, which then stops too, sends it home.

    Raises:
      InputError: no leader within `join_secs`, or one that has a host of this number already.
    """
    wire = _call(sweep_dir, place, is_stopping, time.monotonic() + join_secs)
    if wire is None:
        if is_stopping():
            return EXIT_AGAIN
        where = address_file(sweep_dir, place.group)
        raise InputError(f"group {place.group}: no leader at {where} within {join_secs:g} s; start host 0 of the group")
    follower, until = _Follower(wire, place), float("inf")
    try:
        while wire.is_open and time.monotonic() < until:
            for message in wire.hear(TICK_SECS):
                if message["kind"] == "end":
                    return int(message["status"])
                follower.obey(message)
            follower.relay()
            if is_stopping() and until == float("inf"):
                wire.send({"kind": "stopping"})
                until = time.monotonic() + STOP_SECS
        return EXIT_AGAIN
    finally:
        follower.drop()
        wire.close()


class _Follower:
    """A follower's child, and the number of the run it has."""

    def __init__(self, wire: Wire, place: Place):
        self._wire, self._place, self._number = wire, place, 0
        self._child: Child | None = None
        self._why = ""

    def obey(self, message: Mapping[str, Any]) -> None:
        kind = message["kind"]
        if kind in ("start", "stop"):
            self.drop()
        if kind == "start":
            self._child = Child(self._wire.address(message["port"]), str(self._place.size), str(self._place.rank))
        elif kind == "ask" and self._child is not None:
            self._child.ask_to_stop()
        elif kind == "run":
            self._number = message["number"]
            if self._child is None:
                self._say({"kind": "crash", "error": f"{self._why}, before this one began"})
            else:
                self._child.start(self._with_own_log(message["request"]))

    def relay(self) -> None:
        for told in self._child.hear(0.0) if self._child is not None else ():
            if told["kind"] != "progress":
                self._say({name: value for name, value in told.items() if name != "sections"})
            if told["kind"] == "crash":
                self._why = told["error"]
                self.drop()

    def drop(self) -> None:
        if self._child is not None:
            self._child.stop()
        self._child = None

    def _say(self, message: Mapping[str, Any]) -> None:
        self._wire.send({**message, "number": self._number})

    def _with_own_log(self, request: Mapping[str, Any]) -> dict[str, Any]:
        logs = [Path(run["log"]) for run in request["runs"]]
        own = [str(log.with_name(f"{log.stem}-{self._place.rank}{log.suffix}")) for log in logs]
        return {**request, "runs": [{**run, "log": log} for run, log in zip(request["runs"], own, strict=True)]}


def _call(sweep_dir: Path, place: Place, is_stopping: Callable[[], bool], until: float) -> Wire | None:
    """Call the group's leader where it says it is; one that has died may still be named, so that answers are waited for."""
    while time.monotonic() < until and not is_stopping():
        found = read_object(address_file(sweep_dir, place.group)) or {}
        for host in found.get("hosts", []):
            wire = dial(host, found["port"], min(until, time.monotonic() + 2.0))
            if wire is None:
                continue
            wire.send({"nonce": found["nonce"], "rank": place.rank})
            while wire.is_open and time.monotonic() < until and not is_stopping():
                message = wire.hear_one(TICK_SECS)  # the first order may come with the welcome
                if message is not None and message.get("kind") == "welcome":
                    return wire
                if message is not None:
                    raise InputError(str(message.get("why")))
            wire.close()
        time.sleep(TICK_SECS)
    return None
