"""The local pool: workers pinned to processors of their own, as many as pay, and the time left on screen."""

import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unisc.config import Runtime
from unisc.errors import InputError
from unisc.files import make_folder
from unisc.sweep import worker as work
from unisc.sweep.board import CANCELLED
from unisc.sweep.launch.environment import check_workers, environment
from unisc.sweep.launch.supervise import worker_command
from unisc.sweep.placement import place
from unisc.sweep.plan import DEFAULT_PREFIXES, Run, write_plan
from unisc.sweep.profile import Profile
from unisc.sweep.progress import Display
from unisc.sweep.record import forgive, read_records
from unisc.sweep.status import Monitor, Summary
from unisc.sweep.store import store_of

POLL_SECS = 0.1
SHOW_SECS = 1.0
STOP_SECS = 25.0
MAX_RESTARTS = 3
"""How many workers that die by themselves are replaced before the sweep gives up."""


def run_sweep(
    runs: Sequence[Run],
    sweep_dir: Path | str,
    *,
    runtime: Runtime,
    workers: int | None = None,
    progress: bool | Callable[[Summary], None] = True,
    title: str = "sweep",
    max_hours: float | None = None,
    max_attempts: int = 2,
    prefixes: Sequence[str] = DEFAULT_PREFIXES,
    heartbeat_secs: float = 5.0,
    stale_secs: float = 60.0,
    follow: Callable[[], None] | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Execute what is not yet done of `runs` in a pool of local workers and return the records of all that are, in order.

    Killed and called again it continues and repeats nothing; runs that failed get their attempts anew. A run whose process
    dies or raises is tried `max_attempts` times and then left out (`Monitor.failures` tells which and why). `workers` are as
    many as `unisc.sweep.placement` has it by default; `runtime.work_dir` is replaced by each run's own folder. With
    `max_hours`, no run starts that is predicted to end later than that after this call. `follow` is called now and then, and
    `options` are further fields of `unisc.sweep.settings.Settings`.

    Raises:
      InputError: no runs, an unusable folder, a directory of another version, a full disk, or a run that raised InputError.
      RuntimeError: workers keep dying by themselves, or runs failed and not one succeeded.
    """
    if workers is not None and workers < 1:
        raise InputError(f"workers: {workers} is fewer than 1; leave it out for as many as are best here")
    if max_hours is not None and not max_hours > 0:
        raise InputError(f"max_hours: {max_hours} is not more than 0; leave it out for no limit")
    sweep_dir = Path(sweep_dir).absolute()
    make_folder(sweep_dir / "runs")
    store = store_of(options.get("store") or sweep_dir)
    planned = write_plan(store, runs, prefixes=prefixes)
    monitor = Monitor(sweep_dir, planned, _store=store)
    forgive(store, planned)
    store.remove(CANCELLED)
    before = monitor.look()
    num_runs = before.total - before.done
    platforms = {"JAX_PLATFORMS": options["platform"]} if options.get("platform") else os.environ
    placed = place(num_runs, num_processors=len(_processors()), threads=runtime.num_threads, environ=platforms)
    num_workers = min(workers or placed.workers, max(num_runs, 1))
    settings = work.Settings(
        sweep_dir=str(sweep_dir),
        runtime=runtime,
        num_workers=num_workers,
        prefixes=tuple(prefixes),
        max_attempts=max_attempts,
        max_hours=max_hours,
        heartbeat_secs=heartbeat_secs,
        stale_secs=stale_secs,
        **options,
    )
    work.write_settings(settings)
    display = Display(title) if progress is True else None
    show = display or (progress if callable(progress) else lambda summary: None)

    def tell(summary: Summary) -> None:
        show(summary)
        if follow is not None:
            follow()

    with display or nullcontext():
        if before.done < before.total:
            with _pool(settings, num_workers) as pool:
                pool.wait(lambda: tell(monitor.look(num_workers=num_workers)))
        tell(monitor.look(num_workers=num_workers))
        failed = monitor.failures()
        if display:
            for failure in failed:
                display.note(f"{title}: {failure}")
    records = read_records(store)
    if failed and not records:
        raise RuntimeError(f"no run succeeded and {len(failed)} failed; the first: {failed[0]}")
    return records


def submit(sweep_dir: Path, *, workers: int, profile: Profile) -> list[str]:
    """Start workers of a planned sweep that outlive this process, and return their process ids; what they say is in `workers/`.

    Called again it adds helpers. `run_sweep` is for a sweep that is watched.
    """
    check_workers(workers)
    settings = work.read_settings(sweep_dir)
    platform = None if profile.platform == "cpu" else profile.platform
    env = environment(sweep_dir, settings.runtime.num_threads, platform=platform)
    logs, started = make_folder(sweep_dir / "workers"), []
    for _ in range(workers):
        name = logs / f"{time.time_ns()}.txt"
        with name.open("wb") as log:
            process = subprocess.Popen(
                worker_command(sweep_dir), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, start_new_session=True
            )
        _detached.append(process)
        started.append(str(process.pid))
    _detached[:] = [process for process in _detached if process.poll() is None]
    return started


_detached: list[subprocess.Popen] = []
"""Workers that this process has started and does not wait for; here only so that those that end leave no zombie."""


@dataclass(slots=True)
class _Member:
    """One worker process, the processors it is pinned to, and the last lines it wrote."""

    process: subprocess.Popen
    slot: int
    words: deque[str] = field(default_factory=lambda: deque(maxlen=20))


@dataclass(slots=True)
class _Pool:
    settings: work.Settings
    members: list[_Member] = field(default_factory=list)
    restarts: int = 0
    started: float = field(default_factory=time.monotonic)

    def start(self, slot: int) -> None:
        """Start one worker on the processors of its slot."""
        processors = self._processors_of(slot)
        hours = self.settings.max_hours
        if hours is not None:  # one that replaces another gets what is left
            hours = max(hours - (time.monotonic() - self.started) / 3600, 0.0)
        env = environment(
            Path(self.settings.sweep_dir), self.settings.runtime.num_threads, platform=self.settings.platform or None
        )
        command = [sys.executable, "-m", "unisc.sweep.worker", "--sweep", self.settings.sweep_dir]
        command += ["--parent-pid", str(os.getpid())]
        process = subprocess.Popen(
            [*command, *([] if hours is None else ["--max-hours", str(max(hours, 1e-9))])],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=env,
            text=True,
            errors="replace",
        )
        if processors:
            try:
                os.sched_setaffinity(process.pid, processors)
            except OSError:
                pass  # it has ended already, or the machine does not let us; it only runs slower
        member = _Member(process, slot)
        threading.Thread(target=_listen, args=(member,), daemon=True).start()
        self.members.append(member)

    def wait(self, tell: Callable[[], None]) -> None:
        """Return when every worker has ended; replace those that die, and raise what one says is the user's mistake."""
        shown_at = -float("inf")
        while self.members:
            if time.monotonic() - shown_at >= SHOW_SECS:
                shown_at = time.monotonic()
                tell()
            for member in [m for m in self.members if m.process.poll() is not None]:
                self.members.remove(member)
                self._settle(member)
            time.sleep(POLL_SECS)

    def stop(self) -> None:
        """End all workers: they release what they hold."""
        for member in self.members:
            member.process.terminate()
        deadline = time.monotonic() + STOP_SECS
        for member in self.members:
            try:
                member.process.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                member.process.kill()
                member.process.wait()

    def _settle(self, member: _Member) -> None:
        code = member.process.returncode
        if code == work.EXIT_INPUT_ERROR:
            time.sleep(POLL_SECS)  # its last words may still be in the pipe
            raise InputError(member.words[-1] if member.words else "a worker found its input unusable; see the runs' log.txt")
        if code in (work.EXIT_NOTHING_LEFT, work.EXIT_BUDGET_SPENT, work.EXIT_INTERRUPTED):
            return
        self.restarts += 1
        if self.restarts > MAX_RESTARTS:
            raise RuntimeError(f"workers keep dying (last status {code}): " + " | ".join(member.words))
        self.start(member.slot)

    def _processors_of(self, slot: int) -> set[int]:
        """The slot's own processors; none where the pool asks for more than there are, which the kernel shares better."""
        processors, each = _processors(), self.settings.runtime.num_threads
        if self.settings.num_workers * each > len(processors):
            return set()
        return set(processors[slot * each : (slot + 1) * each])


@contextmanager
def _pool(settings: work.Settings, num_workers: int) -> Iterator[_Pool]:
    pool = _Pool(settings)
    try:
        for slot in range(num_workers):
            pool.start(slot)
        yield pool
    finally:
        pool.stop()


def _listen(member: _Member) -> None:
    assert member.process.stderr is not None
    with member.process.stderr as lines:
        for line in lines:
            if line.strip():
                member.words.append(line.strip())


def _processors() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
