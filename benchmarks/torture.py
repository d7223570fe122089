"""Workers race for the points of a sweep while they are killed at random, and a training run is killed and resumed.

`python benchmarks/torture.py` (`make torture`) ends with one JSON line: points, recorded, lost (without a record), duplicated
(trained to the end twice), kills, bit_equal_resumes. `race` takes what starts workers, so that every launcher can be put to it:
workers are found by their command line on this machine, whoever has started them.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from unisc.config import Runtime
from unisc.sweep.launch import local
from unisc.sweep.plan import Run, write_plan
from unisc.sweep.profile import Profile
from unisc.sweep.record import read_records
from unisc.sweep.settings import Settings, write_settings
from unisc.sweep.status import Monitor

ROOT = Path(__file__).parents[1]
EXPERIMENTS = ROOT / "tests" / "sweep"
PREFIXES = ("sweep_experiments.",)
Submit = Callable[..., list[str]]
"""`submit(sweep_dir, workers=N, profile=P)`, as every launcher has it."""


def race(
    submit: Submit,
    sweep_dir: Path,
    data: Path,
    *,
    points: int,
    workers: int,
    kills: int,
    seed: int,
    profile: Profile | None = None,
    is_resubmitted: bool = True,
    deadline_secs: float = 900.0,
) -> dict[str, int]:
    """Run a sweep of `points` by workers of a launcher of which `kills` are killed; return what became of the points.

    With `is_resubmitted`, workers that are gone are asked for again while points are left, as a requeuing engine would.
    """
    from sweep_experiments import tiny

    rng, profile = random.Random(seed), profile or Profile(platform="cpu", device="cpu")
    configs = [tiny.Config(index=i, secs=round(rng.uniform(0.1, 0.5), 2)) for i in range(points)]
    for folder in (sweep_dir / "runs", data):
        folder.mkdir(parents=True, exist_ok=True)
    runs = write_plan(sweep_dir, [Run.of(tiny, c, cost=c.secs, label=f"tiny {c.index}") for c in configs], prefixes=PREFIXES)
    write_settings(
        Settings(
            sweep_dir=str(sweep_dir),
            runtime=Runtime(work_dir="", data_dir=str(data)),
            num_workers=workers,
            prefixes=PREFIXES,
            heartbeat_secs=0.5,
            stale_secs=30.0,
            max_takeovers=kills,
        )
    )
    monitor, killed, began = Monitor(sweep_dir, runs), 0, time.monotonic()
    submit(sweep_dir, workers=workers, profile=profile)
    submitted_at = time.monotonic()
    while (now := monitor.look()).done < points:
        assert time.monotonic() - began < deadline_secs, f"after {deadline_secs:g} s: {now}"
        alive = pids_of_workers(sweep_dir)
        # Spread over the sweep, whatever its pace: the kills keep up with the points that are done.
        if killed < kills and alive and now.done >= points * killed / (kills + 1) * 0.9:
            killed += kill(rng.choice(alive))
        elif is_resubmitted and len(alive) < workers and time.monotonic() - submitted_at > 2.0:
            submit(sweep_dir, workers=workers - len(alive), profile=profile)
            submitted_at = time.monotonic()
        time.sleep(rng.uniform(0.0, 0.3))
    while pids_of_workers(sweep_dir):
        assert time.monotonic() - began < deadline_secs, "workers do not end"
        time.sleep(0.1)
    lines = (data / "executions.txt").read_text().splitlines()
    ends = Counter(line.split()[1] for line in lines if line.startswith("end"))
    fingerprints = Counter(record["fingerprint"] for record in read_records(sweep_dir))
    return {
        "points": points,
        "recorded": len(fingerprints),
        "lost": sum(run.fingerprint not in fingerprints for run in runs),
        "duplicated": sum(number > 1 for number in ends.values()),
        "kills": killed,
    }


def pids_of_workers(sweep_dir: Path) -> list[int]:
    """Return the processes of this machine that work on a sweep."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            state = (path / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if b"unisc.sweep.worker" in words and str(sweep_dir).encode() in words and state not in "ZX":
            found.append(int(path.name))
    return found


def kill(pid: int) -> bool:
    """Kill a process without warning; return whether it was there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def main() -> None:
    """Race and resume in full, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--resumes", type=int, default=50, help="kills of the training run")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the detached workers are nobody's to wait for
    sys.path.insert(0, str(EXPERIMENTS))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(EXPERIMENTS), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with tempfile.TemporaryDirectory() as made:
        sweep_dir, data = Path(made) / "sweep", Path(made) / "data"
        found = race(local.submit, sweep_dir, data, points=args.points, workers=args.workers, kills=args.kills, seed=args.seed)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with tempfile.TemporaryDirectory() as made:
        out = Path(made) / "resumes.json"
        env = {**os.environ, "UNISC_TORTURE_KILLS": str(args.resumes), "UNISC_TORTURE_OUT": str(out)}
        test = "tests/train/test_checkpoint.py"
        done = subprocess.run([sys.executable, "-m", "pytest", test, "-k", "random_moments"], cwd=ROOT, env=env, check=False)
        resumes = json.loads(out.read_text()) if out.exists() else {"kills": 0, "bit_equal_resumes": 0}
    found["kills"] += resumes["kills"]
    print(json.dumps({**found, "bit_equal_resumes": resumes["bit_equal_resumes"]}))
    whole = found["lost"] == found["duplicated"] == 0 and found["recorded"] == found["points"] and done.returncode == 0
    sys.exit(0 if whole else 1)


if __name__ == "__main__":
    main()
