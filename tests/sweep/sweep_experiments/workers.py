"""What tests of engines share: a planned sweep as launchers find it, and the workers that serve it on this machine."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unisc.sweep import worker as work
from unisc.sweep.plan import Run, write_plan

PREFIXES = ("sweep_experiments.",)


def prepare(sweep: Any, runs: list[Run], *, num_workers: int) -> None:
    """Write what a launcher finds: the plan and the workers' settings."""
    (sweep.dir / "runs").mkdir(parents=True, exist_ok=True)
    write_plan(sweep.dir, runs, prefixes=PREFIXES)
    settings = work.Settings(
        sweep_dir=str(sweep.dir), runtime=sweep.runtime, num_workers=num_workers, prefixes=PREFIXES, max_attempts=20
    )
    work.write_settings(settings)


def race(engine: Any, torture: Any, sweep: Any, profile: Any, *, points: int, workers: int, kills: int) -> None:
    """Let an engine's workers race on short runs while some are killed; `torture` is the module of the race itself."""
    ids: list[str] = []

    def submit(sweep_dir: Path, **options: Any) -> list[str]:
        ids.extend(engine.submit(sweep_dir, **options))
        return ids

    sizes = {"points": points, "workers": workers, "kills": kills, "seed": 0}
    found = torture.race(submit, sweep.dir, sweep.data, **sizes, profile=profile, is_resubmitted=False, deadline_secs=300.0)
    assert found == {"points": points, "recorded": points, "lost": 0, "duplicated": 0, "kills": kills}
    assert len(ids) == len(set(ids)) == workers
    wait_until(lambda: not engine.alive(ids), 20)


def pids(sweep_dir: Path) -> list[int]:
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
