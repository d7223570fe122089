"""The worker's side of its warm child: start it, give it runs, hear from it, and see it die."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unisc.files import dumps

GRACE_SECS = 3.0


class Child:
    """One child process. It is replaced, not mended: after a crash or an error make a new one.

    One that trains together with others is given the address where they meet, their number and its place among them.
    """

    def __init__(self, *cluster: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "unisc.sweep.child", str(os.getpid()), *cluster],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self._buffer = b""

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def start(self, request: Mapping[str, Any]) -> None:
        """Send a run to execute; a child that is already dead shows it at the next `hear`."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(dumps(request).encode())
        except BrokenPipeError:
            pass

    def hear(self, timeout_secs: float) -> list[dict[str, Any]]:
        """Return the messages that arrive within `timeout_secs`: progress, a result, an error, or at the end a `crash`."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], timeout_secs)
        messages: list[dict[str, Any]] = []
        chunk = os.read(self._process.stdout.fileno(), 1 << 20) if ready else b""
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        messages.extend(json.loads(line) for line in lines)
        # Something the run forked may hold the pipe open after the child's death, so end of file is not the only sign.
        ended = (ready and not chunk) or (not ready and self._process.poll() is not None)
        if ended and not messages:
            code = self._process.wait()
            was_told = code in (128 + signal.SIGTERM, -signal.SIGTERM)
            messages.append({"kind": "stopped"} if was_told else {"kind": "crash", "error": describe_exit(code)})
        return messages

    def ask_to_stop(self) -> None:
        """Ask the run under way to save itself and end, and the child with it; an idle child ends at once."""
        self._process.terminate()

    def stop(self) -> None:
        """End the child: politely, then surely. Returns once it is gone."""
        self._process.terminate()
        try:
            self._process.wait(GRACE_SECS)
        except subprocess.TimeoutExpired:
            pass
        self.kill()

    def kill(self) -> None:
        """End the child at once, with no chance to write anything more. Returns once it is gone."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


def describe_exit(code: int) -> str:
    """Say in words how a process ended."""
    if code >= 0:
        return f"the run's process exited with status {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    hint = " (out of memory?)" if name == "SIGKILL" else ""
    return f"the run's process was killed by {name}{hint}"


def last_lines(log: Path, number: int = 5) -> list[str]:
    """Return the last non-empty lines of a log file, each cut to 200 characters; none where there is no log."""
    try:
        with log.open("rb") as f:
            f.seek(max(0, log.stat().st_size - 4096))
            lines = f.read().decode(errors="replace").split("\n")
    except OSError:
        return []
    return [line.strip()[:200] for line in lines if line.strip()][-number:]
