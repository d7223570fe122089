"""How fast ES3 samples go from array_record to padded batches: `python benchmarks/grain_pipeline.py --candidates 2000000`.

Makes marketplace logs and searchified samples of about that many training candidates in a temporary folder, writes them as a
dataset of blocks, and times whole passes of the Grain iterator over it, one reader-thread count after the other and all of them
again, so that a slow spell of the machine falls on each alike. The memory-mapped columns of the same samples are timed beside.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path

import numpy as np

from data_gen.es3.dataset import write_dataset
from unisc.data import blocks, columns
from unisc.data.pack import BatchShape
from unisc.data.pipeline import PackedRequests, iterate
from unisc.data.stream import PackedBlocks
from unisc.errors import run_command

CANDIDATES_PER_REQUEST = 24.1
"""Training candidates of searchified samples for each request of the default shop."""
REQUESTS_PER_USER = 6


def main() -> None:
    """Measure, then print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=2_000_000, help="training candidates, about")
    parser.add_argument("--batch-candidates", type=int, default=4096, help="B")
    parser.add_argument("--history-len", type=int, default=20, help="S")
    parser.add_argument("--requests-per-block", type=int, default=256)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2, 4], help="reader threads, each count timed")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="grain-pipeline-") as directory:
        _measure(Path(directory), args)


def _measure(root: Path, args: argparse.Namespace) -> None:
    samples, out = _make_samples(root, args.candidates), root / "dataset"
    print("writing the dataset", file=sys.stderr)
    wrote = []
    for i in range(3):
        began = time.perf_counter()
        made = write_dataset(
            samples, out.with_name(f"dataset{i}"), requests_per_block=args.requests_per_block, num_shards=args.shards
        )
        wrote.append(time.perf_counter() - began)
    out.with_name("dataset0").rename(out)
    began = time.perf_counter()
    data = blocks.load(out, "train", history_len=args.history_len)
    open_secs = time.perf_counter() - began
    mapped = columns.load(samples, "train", history_len=args.history_len)
    shape = BatchShape.of(
        data.spec, candidates=args.batch_candidates, mean_list_len=data.num_examples / max(data.num_requests, 1)
    )

    def read(threads: int) -> PackedBlocks:
        return PackedBlocks(data, shape, seed=0, read_ahead=threads)

    paths: dict[str, Callable[[], PackedBlocks | PackedRequests]] = {
        **{f"blocks, {n} reader threads": (lambda n=n: read(n)) for n in args.threads},
        "memory-mapped columns": lambda: PackedRequests(mapped, shape, seed=0),
    }
    rates: dict[str, list[float]] = {name: [] for name in paths}
    for repeat in range(args.repeats + 1):
        print(f"pass {repeat} of {args.repeats}", file=sys.stderr)
        for name, make in paths.items():
            began, count = time.perf_counter(), 0
            for batch in iterate(make()):
                count += int(np.count_nonzero(np.asarray(batch.weights)[:, 0]))
            if repeat:  # the first pass warms the page cache
                rates[name].append(count / (time.perf_counter() - began))
            assert count == data.num_examples

    source = read(1)
    packages = ("grain", "array_record", "tensorflow-datasets", "numpy", "pyarrow")
    print(f"machine   {_cores()} cores, {platform.machine()}; Python {platform.python_version()};", end=" ")
    print(", ".join(f"{name} {version(name)}" for name in packages))
    print(f"data      {data.num_examples:,} candidates in {data.num_requests:,} requests, {data.num_blocks} blocks of", end=" ")
    print(f"{args.requests_per_block} requests; {len(data.spec.fields)} id and {len(data.spec.numeric)} numeric features")
    print(
        f"batch     B={shape.candidates} candidates, R={shape.requests} requests, S={args.history_len} history entries,",
        end=" ",
    )
    print(f"U={shape.unique_rows} distinct rows; windows of {source.window_blocks} blocks;", end=" ")
    print(f"{1 - data.num_examples / len(source) / shape.candidates:.1%} of the candidate slots are padding")
    print(f"{'path':28} {'candidates a second: median':>28} {'lowest':>12} {'highest':>12}")
    for name, measured in rates.items():
        print(f"{name:28} {statistics.median(measured):28,.0f} {min(measured):12,.0f} {max(measured):12,.0f}")
    total = sum(made["counts"][f"{split}_candidates"] for split in columns.SPLITS)
    print(f"writing   {total / statistics.median(wrote):,.0f} candidates a second, Parquet to dataset, median of {len(wrote)}")
    print(f"opening   {open_secs:.2f} s, all checksums verified")
    stored, parquet = (
        _bytes(files) / data.num_examples
        for files in (out.glob("*-train.array_record-*"), (samples / "train").glob("*.parquet"))
    )
    print(f"size      {stored:.1f} bytes a candidate, {parquet:.1f} in the samples' Parquet")


def _make_samples(root: Path, candidates: int) -> Path:
    requests = max(2000, round(candidates / CANDIDATES_PER_REQUEST))
    users = max(50, requests // REQUESTS_PER_USER)
    _run("data_gen.marketplace", "generate", "--out", root / "logs", "--requests", requests, "--users", users, "--seed", 0)
    _run("data_gen.es3", "build", root / "logs", "--composition", "searchified", "--out", root / "samples")
    return root / "samples"


def _run(module: str, *arguments: object) -> None:
    print(f"python -m {module} {' '.join(map(str, arguments))}", file=sys.stderr)
    subprocess.run([sys.executable, "-m", module, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _bytes(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files)


if __name__ == "__main__":
    run_command("grain_pipeline", main)
