"""From a configuration to a finished directory of logs: shards in parallel processes, streamed to Parquet."""

import dataclasses
import errno
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_gen.marketplace.calibrate import open_world
from data_gen.marketplace.config import DOMAINS, VERSION, MarketplaceConfig
from data_gen.marketplace.shard import Turn, simulate_shard
from data_gen.marketplace.tables import sharded_writers, write_catalogue, write_turns
from data_gen.marketplace.world import World
from unisc.data import manifest
from unisc.errors import InputError

GENERATOR = "marketplace"
CHUNK_CANDIDATES = 400_000
"""Candidates held in memory by a worker before a row group of each table is written."""
Progress = Callable[[int, int], None]


def generate(
    config: MarketplaceConfig, out_dir: Path | str, *, workers: int, progress: Progress | None = None
) -> dict[str, Any]:
    """Write the logs of `config` to `out_dir` and return its manifest; the same bytes for any number of `workers`.

    The directory appears whole or not at all. `progress` is called with (requests done, requests in all) after each shard.

    Raises:
      InputError: `out_dir` is not writable, or holds anything but logs of this generator; the disk is full; a worker died.
    """
    out = Path(out_dir)
    if workers < 1:
        raise InputError(f"workers={workers}: at least 1 is needed")
    _check_replaceable(out)
    try:
        with _staging(out) as staging:
            world = open_world(config)
            counts = write_catalogue(world, staging)
            done = 0
            for shard, written in _run_shards(world, staging, workers):
                for name, rows in written.items():
                    counts[name] = counts.get(name, 0) + rows
                if progress is not None:
                    first = shard * config.shard_users
                    done += int(world.requests_of[first : first + config.shard_users].sum())
                    progress(done, config.requests)
            made = manifest.write(
                staging,
                kind="logs",
                config=dataclasses.asdict(config),
                counts=counts,
                generator=GENERATOR,
                preset=config.preset,
                domains=list(DOMAINS),
                test_start=config.test_start,
                end_ts=config.end_ts,
                versions={"marketplace": VERSION, "numpy": np.__version__, "pyarrow": pa.__version__},
            )
            _move_in_place(staging, out)
    except OSError as e:
        raise InputError(_storage_message(out, e)) from e
    except BrokenProcessPool as e:
        raise InputError(
            "a generating process died, most likely for memory; give fewer workers (1 runs in this process and shows why)"
        ) from e
    return made


def _storage_message(out: Path, e: OSError) -> str:
    if e.errno == errno.ENOSPC or "No space left" in str(e):
        return f"{out}: the disk is full; free some space or give another --out (nothing was left behind)"
    return f"{out}: cannot be written ({e.strerror or e}); give another --out"


def _check_replaceable(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; give a directory")
    if out.is_dir() and any(out.iterdir()):
        try:
            made_by = manifest.read(out, kind="logs").get("generator")
        except InputError as e:
            raise InputError(f"{out}: not empty and not a finished logs directory, so left alone; give another --out") from e
        if made_by != GENERATOR:
            raise InputError(f"{out}: holds logs that this generator did not make, so left alone; give another --out")


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    out.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".part"))
    try:
        staging.chmod(0o755)
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _move_in_place(staging: Path, out: Path) -> None:
    if not out.is_dir() or not any(out.iterdir()):
        staging.replace(out)
        return
    old = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".old"))
    out.replace(old)
    staging.replace(out)
    shutil.rmtree(old, ignore_errors=True)


_WORLD: World | None = None
_STOP: Any = None


def _start_worker(config: MarketplaceConfig, bias: np.ndarray, stop: Any) -> None:
    global _WORLD, _STOP
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent says stop
    threading.Thread(target=_die_with_parent, daemon=True).start()
    pa.set_cpu_count(1)
    _WORLD, _STOP = open_world(config, bias), stop


def _die_with_parent() -> None:
    """A worker waits on a queue it holds both ends of, so it would outlive a parent that was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(shard: int, directory: str) -> tuple[int, dict[str, int]]:
    assert _WORLD is not None
    return shard, write_shard(_WORLD, shard, Path(directory), stop=_STOP.is_set)


def _run_shards(world: World, directory: Path, workers: int) -> Iterator[tuple[int, dict[str, int]]]:
    """Write every shard; yield (shard, rows written by table) as they finish."""
    config = world.config
    if workers == 1 or config.shards == 1:
        for shard in range(config.shards):
            yield shard, write_shard(world, shard, directory)
        return
    # Not fork: the caller may hold threads (JAX, Arrow) whose locks a forked child would find taken.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    stop = context.Event()
    pool = ProcessPoolExecutor(
        min(workers, config.shards), mp_context=context, initializer=_start_worker, initargs=(config, world.bias, stop)
    )
    try:
        for done in as_completed([pool.submit(_work, shard, str(directory)) for shard in range(config.shards)]):
            yield done.result()
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def write_shard(world: World, shard: int, directory: Path, *, stop: Callable[[], bool] = lambda: False) -> dict[str, int]:
    """Simulate one shard and write its part files; return the rows of each table. `stop` is asked before every turn."""
    with ExitStack() as stack:
        writers = sharded_writers(stack, directory, shard)
        held: list[Turn] = []
        size = 0
        for turn in simulate_shard(world, shard):
            if stop():
                break
            held.append(turn)
            size += len(turn.item)
            if size >= CHUNK_CANDIDATES:
                write_turns(world, writers, held)
                held, size = [], 0
        write_turns(world, writers, held)
        return {name: writer.rows for name, writer in writers.items()}
