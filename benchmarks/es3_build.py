"""What an ES3 build costs as logs grow, and what list-wise storage saves: `python benchmarks/es3_build.py`.

Marketplace logs of several sizes are built into searchified samples, each in a process of its own, sizes in turns. The slope of
log time against log candidates says whether the cost is linear. Beside it stands the peak memory of the process, for the limit
given. The first size is then stored in both layouts, one row a request and one row a candidate.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

REQUESTS_PER_MILLION = 10_360
"""Requests of the default shop that hold a million candidates."""


def main() -> None:
    """Measure, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=float, nargs="+", default=[1, 3, 10, 30], help="candidates in the logs, in millions")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", default="4GiB")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder if not given")
    parser.add_argument("--one", nargs=3, metavar=("LOGS", "OUT", "LAYOUT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        _one(Path(args.one[0]), Path(args.one[1]), args)
        return
    with tempfile.TemporaryDirectory(prefix="es3-build-", dir=args.folder) as directory:
        _measure(Path(directory), args)


def _one(logs: Path, out: Path, args: argparse.Namespace) -> None:
    from data_gen.es3 import ES3Config, build

    config = ES3Config(composition="searchified")
    began = time.perf_counter()
    made = build(logs, out, config, rows=args.one[2] == "row", memory=args.memory, threads=args.threads)
    seconds = time.perf_counter() - began
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            print(json.dumps({"seconds": seconds, "peak_mib": int(line.split()[1]) / 1024, "counts": made["counts"]}))


def _measure(root: Path, args: argparse.Namespace) -> None:
    logs, sizes = {}, {}
    for millions in args.millions:
        requests = round(millions * REQUESTS_PER_MILLION)
        logs[millions] = root / f"logs-{millions:g}"
        shape = ["--requests", str(requests), "--users", str(max(50, requests // 6)), "--preset", "default", "--seed", "0"]
        print(f"generating {millions:g} million candidates", file=sys.stderr)
        subprocess.run(
            [sys.executable, "-m", "data_gen.marketplace", "generate", "--out", str(logs[millions]), *shape],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        sizes[millions] = json.loads((logs[millions] / "manifest.json").read_text())["counts"]["candidates"]
    times: dict[float, list[float]] = {m: [] for m in args.millions}
    peaks: dict[float, list[float]] = {m: [] for m in args.millions}
    for repeat in range(args.repeats):
        for millions in args.millions:
            said = _build(logs[millions], root / "out", "list", args)
            times[millions].append(said["seconds"])
            peaks[millions].append(said["peak_mib"])
            print(f"round {repeat + 1}: {millions:g} million in {said['seconds']:.1f} s", file=sys.stderr)
            shutil.rmtree(root / "out")
    packages = ", ".join(f"{name} {version(name)}" for name in ("duckdb", "ibis-framework", "pyarrow"))
    print(f"machine   {os.cpu_count()} cores, {platform.machine()}; Python {platform.python_version()}; {packages}")
    print(f"build     searchified, --memory {args.memory} --threads {args.threads}; {args.repeats} rounds, sizes in turns")
    print(f"{'candidates':>12} {'s: median':>10} {'lowest':>8} {'highest':>8} {'M a second':>11} {'peak MiB':>9}")
    for millions, took in times.items():
        middle = statistics.median(took)
        print(
            f"{sizes[millions]:12,} {middle:10.1f} {min(took):8.1f} {max(took):8.1f} {sizes[millions] / 1e6 / middle:11.2f} "
            f"{max(peaks[millions]):9.0f}"
        )
    if len(times) > 1:
        x = np.log([sizes[m] for m in times])
        slopes = [np.polyfit(x, np.log([took[i] for took in times.values()]), 1)[0] for i in range(args.repeats)]
        print(f"slope     {statistics.median(slopes):.2f} of log time against log candidates, by round {np.round(slopes, 2)}")
    if len(times) > 2:
        # Starting the engine and compiling expressions cost the same whatever the size; beyond that the cost should be linear.
        middle, size = np.array([statistics.median(took) for took in times.values()]), np.exp(x) / 1e6
        weights = 1 / middle
        a, b = np.linalg.lstsq(np.column_stack([np.ones_like(size), size]) * weights[:, None], middle * weights)[0]
        rest = np.polyfit(x, np.log(middle - a), 1)[0]
        off = np.max(np.abs(a + b * size - middle) / middle)
        print(f"line      {a:.1f} s + {b:.2f} s a million, off by {off:.0%} at most; slope of the rest {rest:.2f}")
    _storage(root, logs[args.millions[0]], args)


def _storage(root: Path, logs: Path, args: argparse.Namespace) -> None:
    """Compressed, repetition costs a row-wise file little; decoded, as a reader holds it, it costs in full."""
    sizes: dict[str, np.ndarray] = {}
    for layout in ("list", "row"):
        said = _build(logs, root / layout, layout, args)
        found = np.zeros(3)
        for file in (root / layout / "train").glob("*.parquet"):
            table = pq.read_table(file)
            pq.write_table(table, root / "plain.parquet", compression="none", use_dictionary=False)
            found += (file.stat().st_size, (root / "plain.parquet").stat().st_size, table.nbytes)
        sizes[layout] = found / said["counts"]["train_samples"]
    print(f"{'bytes a training candidate':28} {'zstd Parquet':>14} {'plain Parquet':>14} {'decoded':>10}")
    for layout, found in sizes.items():
        print(f"{layout:28} " + " ".join(f"{n:{width}.1f}" for n, width in zip(found, (14, 14, 10), strict=True)))
    ratio = sizes["list"] / sizes["row"]
    print(f"{'list / row':28} " + " ".join(f"{n:{width}.2f}" for n, width in zip(ratio, (14, 14, 10), strict=True)))


def _build(logs: Path, out: Path, layout: str, args: argparse.Namespace) -> dict:
    command = [sys.executable, __file__, "--memory", args.memory, "--threads", str(args.threads)]
    done = subprocess.run([*command, "--one", str(logs), str(out), layout], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
