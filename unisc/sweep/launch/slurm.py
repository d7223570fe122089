"""Slurm: an array job, each task of which keeps one worker going and asks to be queued again when its time is up.

The batch script is our own. submitit, the usual helper, pickles what it runs into its log folder and loads that pickle on the
node, so that whoever can write there runs code as the user; its tasks ignore SIGTERM, wait for SIGUSR2, and take a plain
command for something that cannot be resumed after a timeout; and three timeouts end a job. A worker keeps all of its state in
the sweep's folder, so that a script of a few lines, a signal before the end and `scontrol requeue` are enough.

A task runs `python -m unisc.sweep.launch.slurm --sweep DIR ...`. SIGTERM reaches it some time before its limit, or at
preemption; it ends its worker, which releases what it has, and requeues itself unless Slurm is about to end or requeue the job.
"""

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unisc.errors import InputError
from unisc.files import make_folder, write_atomic
from unisc.sweep import worker as work
from unisc.sweep.launch.environment import check_devices, check_workers, environment, name_of
from unisc.sweep.launch.supervise import supervise
from unisc.sweep.profile import Profile

SIGNAL_SECS = 120
"""How long before its time limit a task is told."""
OURS = ("array", "error", "input", "open-mode", "output", "requeue", "no-requeue", "signal", "parsable", "wrap")


def submit(sweep_dir: Path, *, workers: int, profile: Profile) -> list[str]:
    """Submit an array of workers and return their ids, `JOB_TASK`. Submitting again adds helpers.

    Raises:
      InputError: fewer than one worker, no sbatch here, a slurm table that cannot be used, or Slurm's refusal in its words.
    """
    check_workers(workers)
    sweep_dir = Path(sweep_dir).absolute()
    text = script(sweep_dir, workers=workers, profile=profile)
    if shutil.which("sbatch") is None:
        raise InputError("slurm: no sbatch on this machine; type this on a login node, or give another launcher")
    path = make_folder(sweep_dir / "slurm") / "workers.sh"
    write_atomic(path, text)
    job = _ask("sbatch", "--parsable", str(path)).strip().split(";")[0]
    return [f"{job}_{task}" for task in range(workers)]


def script(sweep_dir: Path, *, workers: int, profile: Profile) -> str:
    """Return the batch script; the profile's `slurm` table becomes options, those of the same name replaced."""
    options = {
        "job-name": f"unisc-{name_of(sweep_dir)}",
        "array": f"0-{workers - 1}",
        "nodes": str(profile.hosts_per_worker),
        "ntasks-per-node": "1",
        "cpus-per-task": str(profile.cores),
        "mem": f"{round(profile.memory_gib_per_host * 1024)}M",
        "time": str(profile.minutes),
        "requeue": "",
        "open-mode": "append",
        "signal": f"B:TERM@{min(SIGNAL_SECS, profile.minutes * 20)}",
        "output": str(sweep_dir / "slurm" / "%A_%a.txt"),
    }
    if profile.devices_per_host:
        options["gpus-per-node"] = str(profile.devices_per_host)
    for name, value in profile.slurm.items():
        if name in OURS:
            raise InputError(f"profile: slurm.{name} is what the launcher itself sets; leave it out")
        if not re.fullmatch(r"[a-z][a-z0-9-]*", name) or "\n" in value:
            raise InputError(f"profile: slurm.{name} is no option of sbatch; give its long name without the dashes")
        options[name] = value
    lines = [f"#SBATCH --{name}" + (f"={shlex.quote(value)}" if value else "") for name, value in options.items()]
    command = [sys.executable, "-m", "unisc.sweep.launch.slurm", "--sweep", str(sweep_dir), "--platform", profile.platform]
    command += ["--devices", str(profile.devices_per_host), "--threads", str(profile.cores)]
    command += ["--hosts", str(profile.hosts_per_worker)]
    return "\n".join(["#!/bin/bash", *lines, f"exec {shlex.join(command)}", ""])


def alive(ids: Sequence[str]) -> list[str]:
    """Return those of the ids that wait, run or end just now."""
    found: set[str] = set()
    for job in sorted({name.split("_")[0] for name in ids}):
        try:
            found.update(_ask("squeue", "--noheader", "--array", f"--jobs={job}", "--format=%i").split())
        except InputError as e:
            if "Invalid job id" not in str(e):  # long over, and forgotten
                raise
    return [name for name in ids if name in found]


def cancel(ids: Sequence[str]) -> None:
    """End workers, waiting ones too; those that run release what they have."""
    if ids:
        _ask("scancel", "--quiet", *ids)


def _ask(program: str, *arguments: str) -> str:
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError as e:
        raise InputError(f"slurm: no {program} on this machine; type the command where jobs are submitted") from e
    if done.returncode:
        words = [line.split("error: ", 1)[-1].strip() for line in done.stderr.splitlines() if line.strip()]
        said = "; ".join(words) or f"status {done.returncode}"
        raise InputError(f"slurm: {program} refused ({said}); change the profile's slurm table or what it asks for")
    return done.stdout


def _requeue(task: str) -> bool:
    """Ask for this task to be queued again, unless it is being cancelled or requeued already; return whether it was asked."""
    try:
        if _ask("squeue", "--noheader", f"--jobs={task}", "--format=%T").strip() != "RUNNING":
            return False
        _ask("scontrol", "requeue", task)
    except InputError as e:
        print(e, file=sys.stderr, flush=True)
        return False
    return True


def main() -> int:
    """Keep the worker of one array task going; on 75 requeue the task."""
    parser = argparse.ArgumentParser(prog="python -m unisc.sweep.launch.slurm", description=main.__doc__)
    parser.add_argument("--sweep", type=Path, required=True)
    parser.add_argument("--platform", default="cpu")
    parser.add_argument("--devices", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--hosts", type=int, default=1)
    args = parser.parse_args()
    told: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, frame: told.append(n))
    try:
        check_devices(args.platform, args.devices)
    except InputError as e:
        print(e, file=sys.stderr, flush=True)
        return work.EXIT_INPUT_ERROR
    array, number = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    task = f"{array}_{number}" if array and number else None
    spread: dict[str, Any] = {}
    if args.hosts > 1 and task:
        # A terminated srun kills its tasks at once; a signal for the job's steps reaches the workers and leaves srun alone.
        spread["prefix"] = ["srun", "--ntasks-per-node=1"]
        spread["terminate"] = lambda worker: _ask("scancel", "--signal=TERM", task)
    env = environment(args.sweep, args.threads, platform=args.platform)
    code = supervise(args.sweep, env=env, is_stopping=lambda: bool(told), **spread)
    if code == work.EXIT_INTERRUPTED and task:
        _requeue(task)
    return code


if __name__ == "__main__":
    raise SystemExit(main())
