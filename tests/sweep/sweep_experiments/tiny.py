"""Does what a run can do wrong, and leaves a line in `data_dir/executions.txt` each time it starts and ends."""

import ctypes
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from unisc.config import Runtime
from unisc.errors import InputError
from unisc.sweep.worker import MAX_CHILD_BYTES

VERSION = 1

held: list[bytes] = []
"""What a growing run never gives back."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """`act` says what happens, after `secs`; "once_*" happens at the first attempt only."""

    index: int
    act: Literal["ok", "raise", "kill", "once_kill", "segfault", "exit", "input", "nan", "full", "noise", "fork", "grow"] = "ok"
    secs: float = 0.0


def run(config: Config, runtime: Runtime) -> Mapping[str, Any]:
    """Misbehave as asked, or return where it ran."""
    note(runtime, f"start {config.index} {os.getpid()}")
    steps = max(1, round(config.secs / 0.05))
    for step in range(steps):
        runtime.report(step / steps)
        time.sleep(config.secs / steps)
    act = config.act
    if act == "once_kill":
        marker = Path(runtime.work_dir) / "tried"
        act = "ok" if marker.exists() else "kill"
        marker.touch()
    misbehave(act)
    note(runtime, f"end {config.index} {os.getpid()}")
    return {
        "metrics": {"eval/exposed/log_loss": float("nan") if act == "nan" else 1 / (1 + config.index)},
        "counts": {"pid": os.getpid(), "num_processors": len(os.sched_getaffinity(0))},
        "seen": {name: os.environ.get(name) for name in ("NPROC", "JAX_PLATFORMS", "JAX_COMPILATION_CACHE_DIR")},
    }


def note(runtime: Runtime, line: str) -> None:
    """Append one line that survives whatever happens next."""
    handle = os.open(Path(runtime.data_dir) / "executions.txt", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.write(handle, f"{line}\n".encode())
    os.close(handle)


def misbehave(act: str) -> None:
    """Do one of the things that a worker must survive."""
    if act == "raise":
        raise ValueError("deliberate\nand on two lines")
    if act == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if act == "grow":
        held.append(b"x" * (MAX_CHILD_BYTES + 2**20))
    if act == "segfault":
        ctypes.string_at(0)
    if act == "exit":
        sys.exit(0)
    if act == "input":
        raise InputError("data: no such folder; make it")
    if act == "full":
        raise OSError(errno.ENOSPC, "No space left on device", "/somewhere/part.parquet")
    if act == "noise":
        print('{"kind": "result", "sections": {"metrics": {}}}', flush=True)
        os.write(1, b"from a file descriptor\n")
        subprocess.run(["echo", "from a grandchild"], check=True)
        print("to standard error", file=sys.stderr)
        assert sys.stdin.read() == ""
        threading.Thread(target=print, args=("from a thread",)).start()
    if act == "fork":
        if os.fork() == 0:  # holds the worker's pipe open for longer than the run lives
            time.sleep(3)
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)
