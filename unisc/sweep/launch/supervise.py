"""One worker kept going where an engine has started it: begun again after a crash, ended politely when the engine says so."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from unisc.sweep import worker as work

POLL_SECS = 0.1
STOP_SECS = 45.0
"""More than a worker gives a run to save itself in."""
MAX_CRASHES = 10
LONG_SECS = 600.0
"""A worker that lived this long has been of use: its crash is counted from one again."""
FINAL = (work.EXIT_NOTHING_LEFT, work.EXIT_INPUT_ERROR, work.EXIT_BUDGET_SPENT, work.EXIT_INTERRUPTED)
"""Statuses with which a worker says itself why it ended; any other is a crash."""


def worker_command(sweep_dir: Path) -> list[str]:
    """Return what every launcher starts."""
    return [sys.executable, "-m", "unisc.sweep.worker", "--sweep", str(sweep_dir)]


def supervise(
    sweep_dir: Path,
    *,
    env: Mapping[str, str],
    is_stopping: Callable[[], bool],
    prefix: Sequence[str] = (),
    terminate: Callable[[subprocess.Popen], object] = subprocess.Popen.terminate,
    output: IO[bytes] | None = None,
) -> int:
    """Run one worker until it ends for a reason of its own, and return its exit status; 75 where it was told to stop.

    Killed or crashed, it is begun again after a pause that grows, at most MAX_CRASHES times in a row: an engine's own restarts
    wait in its queue. Once `is_stopping()` holds, the worker gets SIGTERM and STOP_SECS to release what it has. Should this
    process die, so does the worker. `prefix` stands before the command (`srun ...`), and `terminate` gets SIGTERM to the worker
    behind it; `output` takes what the worker prints.
    """
    parent = [] if prefix else ["--parent-pid", str(os.getpid())]  # behind a prefix the parent is another, elsewhere perhaps
    crashes = 0
    while not is_stopping():
        begun = time.monotonic()
        with subprocess.Popen(
            [*prefix, *worker_command(sweep_dir), *parent], env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        ) as worker:
            while worker.poll() is None and not is_stopping():
                time.sleep(POLL_SECS)
            if worker.poll() is None:
                _end(worker, terminate)
        code = worker.returncode
        if code in FINAL:
            return code
        crashes = 1 if time.monotonic() - begun > LONG_SECS else crashes + 1
        if crashes > MAX_CRASHES:
            return code if code > 0 else 128 - code
        again_at = time.monotonic() + min(0.2 * 2.0 ** (crashes - 1), 30.0)
        while time.monotonic() < again_at and not is_stopping():
            time.sleep(POLL_SECS)
    return work.EXIT_INTERRUPTED


def _end(worker: subprocess.Popen, terminate: Callable[[subprocess.Popen], object]) -> None:
    terminate(worker)
    try:
        worker.wait(STOP_SECS)
    except subprocess.TimeoutExpired:
        worker.kill()
