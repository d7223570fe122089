"""The child side of a worker: a warm process that imports an experiment once and executes run after run.

Requests come as JSON lines on standard input and answers go as JSON lines to what was standard output. Both descriptors are
moved out of the way at the start, so that whatever a run prints, from Python or C++, lands in its log file and whatever it
reads is empty. The process dies with its worker: by the kernel's parent-death signal and, everywhere, by end of input.
SIGTERM asks the run under way to save itself, if it is one that listens (`Runtime.should_stop`); any other ends at once.
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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

from unisc.config import Runtime, from_plain
from unisc.errors import InputError, Stopped
from unisc.files import FULL, dumps, object_in, replace_quickly
from unisc.sweep import environment
from unisc.sweep.plan import check_module, run_fingerprint
from unisc.sweep.record import sections_of

RESULT = "result.json"
"""What a run that is over keeps in its work folder until its record exists."""
REPORT_SECS = 0.5
STOPPED = 128 + signal.SIGTERM
"""How a child exits that was told to end: not a failure of its run."""
_sending = threading.Lock()
Answer = dict[str, Any]


class _Listening:
    """Whether the run under way listens for the order to stop, and whether that was given."""

    is_asked = False
    is_told = False


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

    def stop(number: int, frame: object) -> None:
        _Listening.is_told = True
        if not _Listening.is_asked:
            os._exit(STOPPED)

    signal.signal(signal.SIGTERM, stop)
    inbox: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests, inbox), daemon=True).start()
    while True:
        for answer in execute(json.loads(inbox.get()), answers):
            _send(answers, answer)
        _Listening.is_asked = False
        if _Listening.is_told:
            os._exit(STOPPED)


def execute(request: Mapping[str, Any], answers: TextIO) -> Iterator[Answer]:
    """Execute the requested runs and give each one's answer: a `result` with its sections, or an `error` in one line.

    Runs that the experiment can train as one program are; where they do not fit together, and otherwise, one after the other.
    """
    runs = request["runs"]
    log = os.open(runs[0]["log"], os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    try:
        started = time.time()
        wanted = request["experiment"], request["version"], request["prefixes"]
        found = _guarded(runs[0], lambda: [_join(*sys.argv[2:]), load(*wanted)])
        if isinstance(found, dict):
            yield found
            return
        _, module = found
        if (unfit := _missing(request.get("platform", ""))) is not None:
            yield {"kind": "unfit", "error": unfit, "fingerprint": runs[0]["fingerprint"]}
            return
        packed = _guarded(runs[0], lambda: _run_packed(module, request, answers, started)) if len(runs) > 1 else None
        if isinstance(packed, list):
            yield from packed
        elif packed is not None and not packed.get("is_input_error"):
            yield packed  # a stop, or an error that would come again
        else:
            for run in runs:
                answer = _guarded(run, lambda run=run: [_run(module, request, run, answers, started)])
                yield answer if isinstance(answer, dict) else answer[0]
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()


def _guarded(run: Mapping[str, Any], act: Callable[[], list[Any]]) -> list[Any] | Answer:
    """Return what `act` does, or as an answer why it does not: nothing that a run raises ends the child in silence."""
    try:
        return act()
    except BaseException as e:  # SystemExit too
        return _error(run, e)


def _error(run: Mapping[str, Any], e: BaseException) -> Answer:
    if isinstance(e, Stopped):
        return {"kind": "stopped"}
    traceback.print_exception(e)
    answer = {"kind": "error", "fingerprint": run["fingerprint"], "is_input_error": True}
    if isinstance(e, InputError):
        return {**answer, "error": str(e)}
    if isinstance(e, OSError) and e.errno in FULL:
        where = e.filename or run["runtime"]["work_dir"]
        return {**answer, "error": f"{where}: {os.strerror(e.errno)}; free some space and type the command again"}
    line = " ".join(traceback.format_exception_only(e)[-1].split())
    return {**answer, "error": line, "is_input_error": False}


def _missing(platform: str) -> str | None:
    """Say what is wrong where JAX does not find the devices that the profile wants."""
    if not platform:
        return None
    jax = importlib.import_module("jax")
    try:
        found = {device.platform for device in jax.devices()} | {jax.default_backend()}
    except Exception as e:  # JAX raises AssertionError, too, where a platform's plugin is not installed
        found, why = set(), f" ({' '.join(str(e).split())[:120]})" if str(e) else ""
    else:
        why = ""
    wanted = {"cuda": {"cuda", "gpu"}, "rocm": {"rocm", "gpu"}}.get(platform, {platform})
    if found & wanted:
        return None
    there = f"JAX finds {' and '.join(sorted(found)) or 'none'}{why}"
    return f"the profile wants {platform}, and {there}; give the profile of this machine, or mend its drivers"


def _prepare(request: Mapping[str, Any], module: ModuleType, run: Mapping[str, Any], answers: TextIO) -> tuple[Any, Any]:
    config = from_plain(module.Config, run["config"])
    if run_fingerprint(request["experiment"], request["version"], run["config"]) != run["fingerprint"]:
        raise InputError(f"{run['fingerprint']}: the plan's configuration does not hash to its fingerprint; plan again")
    plain = dict(run["runtime"])
    Path(plain["work_dir"]).mkdir(parents=True, exist_ok=True)
    return config, _ReportingRuntime(**plain, answers=answers, fingerprint=run["fingerprint"])


def _run(module: ModuleType, request: Mapping[str, Any], run: Mapping[str, Any], answers: TextIO, started: float) -> Answer:
    clock = time.time()
    config, runtime = _prepare(request, module, run, answers)
    kept = object_in(_read_file(_kept(run)))
    if kept is not None:  # it was over when its worker died, and only its record is missing
        return _result(module, run, kept["result"], kept["timing"])
    with _measured(clock - min(started, clock)) as timing:
        try:
            result = module.run(config, runtime)
        finally:
            runtime.last[0] = float("inf")  # a thread the run left behind must not report on the next run
    return _result(module, run, result, timing)


def _kept(run: Mapping[str, Any]) -> Path:
    return Path(run["runtime"]["work_dir"]) / RESULT


def _read_file(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _run_packed(module: ModuleType, request: Mapping[str, Any], answers: TextIO, started: float) -> list[Answer]:
    pairs = [_prepare(request, module, run, answers) for run in request["runs"]]
    with _measured(time.time() - started) as timing:
        results = module.run_packed([config for config, _ in pairs], [runtime for _, runtime in pairs])
    for key in ("setup_secs", "wall_secs", "cpu_secs"):
        timing[key] /= len(pairs)  # what a run took of the worker's time, as where it runs alone
    timing["num_packed"] = len(pairs)
    return [
        _error(run, result) if isinstance(result, Exception) else _result(module, run, result, timing)
        for run, result in zip(request["runs"], results, strict=True)
    ]


@contextmanager
def _measured(setup_secs: float) -> Iterator[dict[str, Any]]:
    """Measure a block's time and memory into what it is given."""
    environment.start_peak_memory()
    timing: dict[str, Any] = {"started_at": time.time() - setup_secs, "setup_secs": setup_secs}
    begun, cpu = time.monotonic(), time.process_time()
    yield timing
    timing["wall_secs"] = time.monotonic() - begun
    timing["cpu_secs"] = time.process_time() - cpu
    timing["peak_memory_bytes"] = environment.peak_memory_bytes()


def _result(module: ModuleType, run: Mapping[str, Any], result: Any, timing: Mapping[str, Any]) -> Answer:
    try:
        sections = sections_of(result)
    except ValueError as e:
        return _error(run, e)
    # Before anything else, so that a run that is over is never trained again, whenever its worker is killed.
    if sys.argv[4:] in ([], ["0"]):  # the leader's, where several hosts train it
        replace_quickly(_kept(run), dumps({"result": sections, "timing": dict(timing)}))
    source = Path(module.__file__).parent if module.__file__ else None
    sections["timing"] = {**sections.get("timing", {}), **timing}
    sections["environment"] = {**sections.get("environment", {}), **environment.describe(source)}
    return {"kind": "result", "fingerprint": run["fingerprint"], "sections": sections}


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
    """A runtime whose reports reach the worker, at most a few a second, and which hears the order to stop."""

    answers: TextIO = field(repr=False, compare=False)
    fingerprint: str
    last: list[float] = field(default_factory=lambda: [0.0], repr=False, compare=False)

    def report(self, frac_done: float) -> None:
        if time.monotonic() - self.last[0] >= REPORT_SECS:
            self.last[0] = time.monotonic()
            frac_done = min(max(float(frac_done), 0.0), 1.0)
            _send(self.answers, {"kind": "progress", "fingerprint": self.fingerprint, "frac_done": frac_done})

    def should_stop(self) -> bool:
        _Listening.is_asked = True
        return _Listening.is_told


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
