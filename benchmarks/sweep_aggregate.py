"""Eight small runs on one machine, placed in four ways: `python benchmarks/sweep_aggregate.py --json OUT`.

The runs are those of `experiments.rankers`, scoring included: one size of one ranker at eight pairs of rate and seed. The ways:

    sequential     one process on all cores, run after run
    processes      the sweep's own pool: a process pinned to each core (`unisc.sweep.launch.local`)
    packed         one process on all cores, one program of all runs, a virtual device a core (`unisc.train.packed`)
    packed x cores a process pinned to each core, each with one program of its share of the runs

Every way starts its processes afresh and takes its turn in every round. `train` is examples a second while training: examples
of a process over its seconds in steps, added up over the processes that train beside each other. `wall` is all examples over
the whole time, from the start of the first process to the end of the last: imports, compilation, training, scoring, records.
`cpu` is all examples over the processor seconds of all processes, which other load on the machine changes least.
The samples are generated. Ratios are medians over rounds of the way's rate over that of the first way in the same round.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from unisc import cpu
from unisc.config import Runtime, from_json, override, to_json
from unisc.errors import InputError, run_command

NUM_RUNS = 8
EPOCHS = {"dlrm": 4, "hhsft": 1, "transformer": 1}
"""Passes over the samples, so that a run trains for some seconds of a core, as the smallest runs of a sweep do."""
FIGURES = ("train", "wall", "cpu")
Measured = tuple[float, float, int]
"""Examples a second while training, seconds of the whole, and examples."""


def configurations(samples: Path, model: str, size: str) -> list[Any]:
    """Return the runs: four rates by two seeds."""
    from experiments import rankers

    found = []
    for i in range(NUM_RUNS):
        base = rankers.default(samples, model=model, size=size, seed=i // 4)
        rate = 1.5e-3 * 2 ** (i % 4 - 2)
        changes = {"train.learning_rate": rate, "train.num_epochs": EPOCHS[model], "evaluate.num_full_requests": 100}
        found.append(override(base, changes))
    return found


def sequential(samples: Path, work: Path, configs: Sequence[Any], cores: int) -> Measured:
    """Run after run in one process that has all cores."""
    return _in_processes(samples, work, [configs], _plain(work, cores), pinned=False, packed=False)


def processes(samples: Path, work: Path, configs: Sequence[Any], cores: int) -> Measured:
    """A sweep as users start it."""
    from experiments import rankers
    from unisc.sweep.launch.local import run_sweep
    from unisc.sweep.plan import Run

    runs = [Run.of(rankers, c, cost=1.0, label=str(i), compile_key="one") for i, c in enumerate(configs)]
    runtime = Runtime(data_dir=str(samples), work_dir=str(work), checkpoint_every_steps=0)
    began = time.perf_counter()
    records = run_sweep(runs, work / "sweep", runtime=runtime, workers=cores, progress=False)
    wall = time.perf_counter() - began
    num_examples = sum(r["counts"]["num_examples"] for r in records)
    # Workers take whichever run is next, so a process's own rate is that of its runs.
    rate = num_examples / sum(r["timing"]["train_secs"] for r in records)
    return min(cores, len(runs)) * rate, wall, num_examples


def packed(samples: Path, work: Path, configs: Sequence[Any], cores: int) -> Measured:
    """All runs as one program in one process."""
    environ = cpu.training_environment(cores, _plain(work, cores))
    return _in_processes(samples, work, [configs], environ, pinned=False, packed=True)


def packed_over_cores(samples: Path, work: Path, configs: Sequence[Any], cores: int) -> Measured:
    """One program a core, each of its share of the runs."""
    shares = [configs[i::cores] for i in range(min(cores, len(configs)))]
    return _in_processes(samples, work, shares, _plain(work, 1), pinned=True, packed=True)


WAYS: dict[str, Callable[[Path, Path, Sequence[Any], int], Measured]] = {
    "sequential": sequential,
    "processes": processes,
    "packed": packed,
    "packed x cores": packed_over_cores,
}


def main() -> None:
    """Measure, print one table, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument("--samples", type=Path, help="samples to train on; generated if not given")
    parser.add_argument("--requests", type=int, default=12_000, help="requests of the generated logs")
    parser.add_argument("--models", nargs="+", default=["dlrm", "hhsft"], choices=list(EPOCHS))
    parser.add_argument("--size", default="xs")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--part", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        _part(*map(Path, args.part[:2]), is_packed=args.part[2] == "packed")
        return
    if args.rounds < 1:
        raise InputError(f"--rounds {args.rounds}: give at least 1")
    cores = cpu.num_cores()
    packages = ", ".join(f"{name} {version(name)}" for name in ("jax", "flax"))
    print(f"machine   {cores} cores, {platform.machine()}; Python {platform.python_version()}; {packages}", end="; ")
    print(f"load {os.getloadavg()[0]:.1f}; {NUM_RUNS} runs of size {args.size}; {args.rounds} rounds")
    print(f"{'model':12} {'way':15}", *(f"{figure + ' ex/s':>13} {'ratio':>5} {'lowest':>6}" for figure in FIGURES))
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        samples = (args.samples or _generate(Path(scratch), args.requests)).absolute()
        for model in args.models:
            found[model] = _measure(samples, Path(scratch), model, args.size, args.ways, args.rounds, cores)
    if args.json:
        args.json.write_text(json.dumps({**found, "load": os.getloadavg()[0], "cores": cores}, indent=1))


def _measure(
    samples: Path, scratch: Path, model: str, size: str, ways: Sequence[str], rounds: int, cores: int
) -> dict[str, dict[str, float]]:
    """Let each way take its turn in every round; return rates and ratios by way."""
    configs = configurations(samples, model, size)
    taken: dict[str, list[tuple[float, ...]]] = {way: [] for way in ways}
    for index in range(rounds):
        for way in ways if index % 2 == 0 else reversed(ways):
            work = scratch / f"{model} {way} {index}"
            work.mkdir()
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            train, wall, num_examples = WAYS[way](samples, work, configs, cores)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu_secs = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            taken[way].append((train, num_examples / wall, num_examples / cpu_secs))
    found: dict[str, dict[str, float]] = {}
    for way, rates in taken.items():
        found[way], cells = {}, []
        for i, figure in enumerate(FIGURES):
            ratios = [own[i] / base[i] for own, base in zip(rates, taken[ways[0]], strict=True)]
            rate, ratio, lowest = statistics.median(r[i] for r in rates), statistics.median(ratios), min(ratios)
            found[way] |= {f"{figure}_examples_per_sec": rate, f"{figure}_ratio": ratio, f"{figure}_lowest": lowest}
            cells.append(f"{rate:13,.0f} {ratio:5.2f} {lowest:6.2f}")
        print(f"{model:12} {way:15}", *cells, flush=True)
    return found


def _in_processes(
    samples: Path, work: Path, shares: Sequence[Sequence[Any]], environ: dict[str, str], *, pinned: bool, packed: bool
) -> Measured:
    """Start a process for each share of the runs, wait for all, and return their rates."""
    available = sorted(os.sched_getaffinity(0))
    began, started = time.perf_counter(), []
    for slot, configs in enumerate(shares):
        folder = work / str(slot)
        folder.mkdir()
        (folder / "configs.json").write_text(json.dumps([to_json(config) for config in configs]))
        command = [sys.executable, __file__, "--part", str(samples), str(folder), "packed" if packed else "apart"]
        started.append(subprocess.Popen(command, env=environ))
        if pinned:
            os.sched_setaffinity(started[-1].pid, {available[slot]})
    if sum(process.wait() != 0 for process in started):
        raise RuntimeError(f"a process of {work.name} failed")
    wall = time.perf_counter() - began
    results = [json.loads((work / str(slot) / "result.json").read_text()) for slot in range(len(shares))]
    num_examples = sum(r["num_examples"] for r in results)
    return sum(r["num_examples"] / r["train_secs"] for r in results), wall, num_examples


def _part(samples: Path, folder: Path, *, is_packed: bool) -> None:
    """Do one process's share of the runs."""
    from experiments import rankers

    configs = [from_json(rankers.Config, text) for text in json.loads((folder / "configs.json").read_text())]
    runtimes = []
    for i in range(len(configs)):
        (folder / str(i)).mkdir()
        runtimes.append(Runtime(data_dir=str(samples), work_dir=str(folder / str(i)), checkpoint_every_steps=0))
    results: list[Any]
    if is_packed:
        results = rankers.run_packed(configs, runtimes)
    else:
        results = [rankers.run(config, runtime) for config, runtime in zip(configs, runtimes, strict=True)]
    for result in results:
        if isinstance(result, Exception):
            raise result
    totals = {
        "num_examples": sum(r["counts"]["num_examples"] for r in results),
        "train_secs": sum(r["timing"]["train_secs"] for r in results),
        "losses": [r["metrics"]["train/loss"] for r in results],
    }
    (folder / "result.json").write_text(json.dumps(totals))


def _plain(work: Path, num_threads: int) -> dict[str, str]:
    """The sweep's own environment, which every way gets."""
    from unisc.sweep.launch.local import environment

    return {**environment(work, num_threads), "PYTHONPATH": str(Path(__file__).parents[1])}


def _generate(scratch: Path, requests: int) -> Path:
    """Generate logs and build samples of them."""
    for arguments in (
        ["data_gen.marketplace", "generate", "--out", "logs", "--requests", requests, "--users", requests // 12, "--seed", 0],
        ["data_gen.es3", "build", "logs", "--composition", "unexposed", "--out", "samples"],
    ):
        command = [sys.executable, "-m", *map(str, arguments)]
        environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        subprocess.run(command, cwd=scratch, env=environ, stdout=subprocess.DEVNULL, check=True)
    return scratch / "samples"


if __name__ == "__main__":
    run_command("sweep_aggregate", main)
