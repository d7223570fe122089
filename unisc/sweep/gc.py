"""What a sweep's folder holds that nobody needs any more."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from unisc.sweep.lease import Observer
from unisc.sweep.plan import Run, run_folder, run_store
from unisc.sweep.record import read_record
from unisc.sweep.store import Store

WORK = ("checkpoint", "profile")
"""What a run keeps in its work folder for going on, and for looking at while it does."""


def collect(folder: Path, store: Store, runs: Sequence[Run], *, dry_run: bool = False) -> tuple[int, list[str]]:
    """Remove the leftovers of recorded runs, and broken records and half-written files of runs that nobody holds.

    Returns the bytes freed on this disk and the names removed. A run outside the plan is left alone: it may come back.
    """
    num_bytes, names = 0, []
    observer = Observer(stale_secs=float("inf"))
    for run in runs:
        own, local = run_store(store, run.fingerprint), run_folder(folder, run.fingerprint)
        is_done = read_record(store, run.fingerprint) is not None
        if not is_done and observer.look(own)[1] not in ("free", "stale"):
            continue
        paths = [path for name in WORK if is_done and (path := local / "work" / name).exists()]
        paths += local.glob(".*.tmp")
        for path in paths:
            num_bytes += _size(path)
            names.append(str(path))
            if not dry_run:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        leftovers = [name for name in own.names() if name.startswith("record.json.broken-") or (is_done and name == "lease")]
        for name in leftovers:
            names.append(own.show(name))
            if not dry_run:
                own.remove(name)
    return num_bytes, names


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())
