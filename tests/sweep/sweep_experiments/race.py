"""One race for every engine: workers that are killed at random moments, and every point recorded exactly once."""

import json
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from unisc.sweep import worker as work
from unisc.sweep.plan import Run, write_plan
from unisc.sweep.record import read_records

PREFIXES = ("sweep_experiments.",)


def prepare(sweep: Any, runs: list[Run], *, num_workers: int) -> None:
    """Write what a launcher finds: the plan and the workers' settings."""
    (sweep.dir / "runs").mkdir(parents=True, exist_ok=True)
    write_plan(sweep.dir, runs, prefixes=PREFIXES)
    settings = work.Settings(
        sweep_dir=str(sweep.dir), runtime=sweep.runtime, num_workers=num_workers, prefixes=PREFIXES, max_attempts=20
    )
    work.write_settings(settings)


def workers_of(sweep_dir: Path) -> list[int]:
    """Return the processes that serve this very folder, and no others."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().split("\0")
        except OSError:
            continue
        if words[1:5] == ["-m", "unisc.sweep.worker", "--sweep", str(sweep_dir)]:
            found.append(int(path.parent.name))
    return found


def wait_until(condition: Callable[[], Any], secs: float) -> None:
    deadline = time.monotonic() + secs
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


def race(
    sweep: Any,
    submit: Callable[[int], Sequence[str]],
    alive: Callable[[Sequence[str]], list[str]],
    *,
    num_points: int = 20,
    num_workers: int = 4,
    num_kills: int = 5,
    seed: int = 0,
    limit_secs: float = 90.0,
) -> None:
    """Run points on an engine, kill workers at random moments, and check what is left. `submit` is told how many workers."""
    prepare(sweep, [sweep.run(i, secs=0.2) for i in range(num_points)], num_workers=num_workers)
    ids = submit(num_workers)
    assert len(set(ids)) == num_workers
    deadline, generator, killed = time.monotonic() + limit_secs, random.Random(seed), 0
    while alive(ids) or workers_of(sweep.dir):
        assert time.monotonic() < deadline, f"{len(read_records(sweep.dir))} of {num_points} recorded after {limit_secs} s"
        time.sleep(generator.uniform(0.1, 0.5))
        victims = workers_of(sweep.dir) if sweep.executions() and killed < num_kills else []
        if victims:
            os.kill(generator.choice(victims), signal.SIGKILL)
            killed += 1
    records = read_records(sweep.dir)
    assert sorted(r["config"]["index"] for r in records) == list(range(num_points))
    assert sorted(sweep.executions("end")) == sorted(set(sweep.executions("end"))) or killed  # twice only if cut at the record
    assert num_points <= len(sweep.executions("end")) <= num_points + killed
    assert len(sweep.executions()) <= num_points + killed
    assert killed == num_kills
    assert not [f for f in sweep.dir.glob("runs/*/record.json") if json.loads(f.read_text())["attempts"] != 1]
