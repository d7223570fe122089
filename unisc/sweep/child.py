"""The child side of a worker: a warm process that imports an experiment once and executes run after run.

Requests come as JSON lines on standard input and answers go as JSON lines to what was standard output. Both descriptors are
moved out of the way at the start, so that whatever a run prints, from Python or C++, lands in its log file and whatever it
reads is empty. The process dies with its worker: by the kernel's parent-death signal and, everywhere, by end of input.
"""

import ctypes
import functools
import importlib
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

from unisc.config import Runtime, from_plain
from unisc.errors import InputError
from unisc.files import FULL, dumps
from unisc.sweep import environment
from unisc.sweep.plan import check_module, run_fingerprint
from unisc.sweep.record import sections_of

REPORT_SECS = 0.5
_sending = threading.Lock()


def main() -> None:
    """Serve one worker until it closes standard input."""
    die_with_parent(int(sys.argv[1]), signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the worker decides
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    requests = os.fdopen(os.dup(0), "r", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    inbox: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests, inbox), daemon=True).start()
    while True:
        _send(answers, execute(json.loads(inbox.get()), answers))


def execute(request: Mapping[str, Any], answers: TextIO) -> dict[str, Any]:
    """Execute one requested run and return the answer: a `result` with its sections, or an `error` in one line."""
    log = os.open(request["log"], os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    try:
        return _run(request, answers)
    except InputError as e:
        traceback.print_exc()
        return {"kind": "error", "error": str(e), "is_input_error": True}
    except BaseException as e:  # SystemExit too: a run must not end the worker's child in silence
        traceback.print_exc()
        if isinstance(e, OSError) and e.errno in FULL:
            where = e.filename or request["runtime"]["work_dir"]
            error = f"{where}: {os.strerror(e.errno)}; free some space and type the command again"
            return {"kind": "error", "error": error, "is_input_error": True}
        line = " ".join(traceback.format_exception_only(e)[-1].split())
        return {"kind": "error", "error": line, "is_input_error": False}
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()


def _run(request: Mapping[str, Any], answers: TextIO) -> dict[str, Any]:
    started, clock = time.time(), time.monotonic()
    _join(*sys.argv[2:])
    module = load(request["experiment"], request["version"], request["prefixes"])
    config = from_plain(module.Config, request["config"])
    if run_fingerprint(request["experiment"], request["version"], request["config"]) != request["fingerprint"]:
        raise InputError(f"{request['fingerprint']}: the plan's configuration does not hash to its fingerprint; plan again")
    plain = dict(request["runtime"])
    Path(plain["work_dir"]).mkdir(parents=True, exist_ok=True)
    runtime = _ReportingRuntime(**plain, answers=answers)
    environment.start_peak_memory()
    begun, cpu = time.monotonic(), time.process_time()
    try:
        result = module.run(config, runtime)
    finally:
        runtime.last[0] = float("inf")  # a thread the run left behind must not report on the next run
    timing = {
        "started_at": started,
        "setup_secs": begun - clock,
        "wall_secs": time.monotonic() - begun,
        "cpu_secs": time.process_time() - cpu,
        "peak_memory_bytes": environment.peak_memory_bytes(),
    }
    sections = sections_of(result)
    source = Path(module.__file__).parent if module.__file__ else None
    sections["timing"] = {**sections.get("timing", {}), **timing}
    sections["environment"] = {**sections.get("environment", {}), **environment.describe(source)}
    return {"kind": "result", "sections": sections}


@functools.cache
def _join(*cluster: str) -> None:
    """Meet the children of the other hosts, if there are any, before anything of JAX is used; once in a process's life."""
    if not cluster:
        return
    address, num_processes, process_id = cluster
    distributed = importlib.import_module("unisc.distributed")  # brings JAX, which only those that train import
    place = distributed.Cluster(coordinator=address, num_processes=int(num_processes), process_id=int(process_id))
    try:
        distributed.join(place)
    except InputError as e:
        raise RuntimeError(str(e)) from e  # a host that is missing is no mistake of the run's


def load(name: str, version: int, prefixes: list[str]) -> ModuleType:
    """Import an experiment module whose name is allowed, and check that it is one and of the planned version.

    Raises:
      InputError: a name outside the allowed prefixes, no such module, no experiment, or another VERSION.
    """
    check_module(name, prefixes)
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as e:
        if e.name is None or not (name + ".").startswith(e.name + "."):
            raise  # the experiment is there but something that it imports is not
        raise InputError(f"{name}: no such experiment module; give one that exists in this installation") from e
    if not isinstance(getattr(module, "Config", None), type) or not callable(getattr(module, "run", None)):
        raise InputError(f"{name}: not an experiment; it needs Config, an integer VERSION and run()")
    if version != module.VERSION:
        raise InputError(
            f"{name}: planned at version {version} but installed at {module.VERSION}; plan again in another folder"
        )
    return module


def die_with_parent(parent: int, how: signal.Signals) -> None:
    """Ask Linux to signal this process when its parent's thread ends; exit now if the parent is already gone."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, int(how), 0, 0, 0)  # 1 is PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


@dataclass(frozen=True, kw_only=True, slots=True)
class _ReportingRuntime(Runtime):
    """A runtime whose reports reach the worker, at most a few a second."""

    answers: TextIO = field(repr=False, compare=False)
    last: list[float] = field(default_factory=lambda: [0.0], repr=False, compare=False)

    def report(self, frac_done: float) -> None:
        if time.monotonic() - self.last[0] >= REPORT_SECS:
            self.last[0] = time.monotonic()
            _send(self.answers, {"kind": "progress", "frac_done": min(max(float(frac_done), 0.0), 1.0)})


def _read(requests: TextIO, inbox: "queue.SimpleQueue[str]") -> None:
    for line in requests:
        inbox.put(line)
    os._exit(1)  # the worker is gone


def _send(answers: TextIO, message: Mapping[str, Any]) -> None:
    with _sending:
        answers.write(dumps(message))
        answers.flush()


if __name__ == "__main__":
    main()
