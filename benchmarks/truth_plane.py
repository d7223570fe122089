"""What the truth plane costs: a point's claim, heartbeat, status and record, a look at the whole sweep, and the import.

`python benchmarks/truth_plane.py --points 10000` in a folder on the disk to be measured. The child process is replaced by one
that answers at once, in this process, with a record as large as a study's; what is left is the worker's own work: files, and
the choice of the next run. Bars: 20 ms a point, 1 s a status, 0.3 s the import.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from unisc.config import Runtime
from unisc.sweep import worker as work
from unisc.sweep.plan import Run, run_fingerprint, write_plan
from unisc.sweep.settings import Settings
from unisc.sweep.store import Folder, ObjectStore, Store

METRICS = {f"eval/{part}/metric_{i}": 0.1234567890123 + i for part in ("exposed", "full", "oracle") for i in range(24)}


class InstantChild:
    """Answers every request at once, and notes when."""

    answered: ClassVar[list[float]] = []

    def __init__(self) -> None:
        self._request: Mapping[str, Any] = {}

    def start(self, request: Mapping[str, Any]) -> None:
        """Take the request."""
        self._request = request

    def hear(self, timeout_secs: float) -> list[dict[str, Any]]:
        """Return the result of each run."""
        self.answered.append(time.perf_counter())
        timing = {"wall_secs": 1.0, "setup_secs": 0.1, "peak_memory_bytes": 1}
        sections = {"metrics": METRICS, "timing": timing}
        return [{"kind": "result", "fingerprint": run["fingerprint"], "sections": sections} for run in self._request["runs"]]

    def stop(self) -> None:
        """Nothing runs."""

    kill = ask_to_stop = stop


def planned(points: int, keys: int) -> list[Run]:
    """Return made-up runs of as many compile keys."""
    found = []
    for i in range(points):
        config = {"model": {"width": i % keys, "layers": 2}, "train": {"learning_rate": 1e-3, "seed": i}, "samples": "0" * 16}
        found.append(
            Run(
                experiment="experiments.nothing",
                version=1,
                config=config,
                cost=float(1 + i % 97),
                label=f"grid/{i}",
                compile_key=str(i % keys),
                fingerprint=run_fingerprint("experiments.nothing", 1, config),
            )
        )
    return found


def serve(store: Store, folder: Path, points: int, keys: int) -> list[float]:
    """Let one worker record every point; return the seconds of each, from one answer to the next."""
    write_plan(store, planned(points, keys))
    settings = Settings(sweep_dir=str(folder), runtime=Runtime(work_dir="", data_dir=""), num_workers=8)
    worker = work.Worker.of(settings, store)
    InstantChild.answered.clear()
    began = time.perf_counter()
    assert worker.serve() == work.EXIT_NOTHING_LEFT
    ticks = [*InstantChild.answered[1:], time.perf_counter()]
    assert len(ticks) == points
    return [b - a for a, b in zip([began, *ticks], ticks, strict=False)]


def secs_of(command: list[str], rounds: int = 5) -> list[float]:
    """Return how long a command takes, start of the interpreter included."""
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        subprocess.run([sys.executable, *command], check=False, capture_output=True)
        found.append(time.perf_counter() - began)
    return found


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--keys", type=int, default=50, help="compile keys")
    parser.add_argument("--out", type=Path, help="folder on the disk to be measured; a temporary one if not given")
    args = parser.parse_args()
    work.Child = InstantChild  # type: ignore[misc, assignment]
    with tempfile.TemporaryDirectory(dir=args.out) as made:
        folder = Path(made)
        each = serve(Folder(folder), folder, args.points, args.keys)
        quick = {"mean": sum(each) / len(each), "median": statistics.median(each), "p99": sorted(each)[int(0.99 * len(each))]}
        found: dict[str, Any] = {"points": args.points, "ms_a_point": {k: round(1e3 * x, 2) for k, x in quick.items()}}
        status = secs_of(["-m", "unisc.cli", "sweep", "status", str(folder), "--json"])
        code = "from pathlib import Path; import sys, time; from unisc.sweep.status import summary; t = time.perf_counter();"
        inside = f"{code} summary(Path(sys.argv[1])); print(time.perf_counter() - t)"
        runs = [subprocess.run([sys.executable, "-c", inside, made], check=True, capture_output=True) for _ in range(5)]
        found["status_secs"] = sorted(round(float(run.stdout), 3) for run in runs)
        found["status_command_secs"] = sorted(round(x, 3) for x in status)
    with tempfile.TemporaryDirectory(dir=args.out) as made:
        from obstore.store import MemoryStore

        each = serve(ObjectStore(MemoryStore()), Path(made), args.points, args.keys)
        found["ms_a_point_in_an_object_store_in_memory"] = round(1e3 * sum(each) / len(each), 2)
    bare, whole = secs_of(["-c", "pass"]), secs_of(["-c", "import unisc.sweep.worker, unisc.sweep.status"])
    found["import_secs"] = [round(statistics.median(whole) - statistics.median(bare), 3), round(statistics.median(whole), 3)]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
