"""The steps around a sweep: each leaves finished files, says how far it is, and is skipped when its result is there."""

import dataclasses
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data_gen import es3
from data_gen.es3.config import ES3Config
from data_gen.marketplace.config import MarketplaceConfig
from data_gen.marketplace.generate import generate
from unisc.config import to_plain
from unisc.data import manifest
from unisc.errors import InputError
from unisc.files import write_atomic

NAMES = ("logs", "samples", "runs", "report")
PACKAGES = ("unisc", "jax", "flax", "optax", "numpy", "duckdb", "ibis-framework", "pyarrow")


class Stages:
    """Times a study's steps over all the calls it took, shows where it is, and checks both folders before any work."""

    def __init__(self, work: Path, out: Path, *, workers: int):
        self.workers = workers or len(os.sched_getaffinity(0))
        self.work = work
        for folder in (work, out):
            _check_writable(folder)
        self._timing = work / "timing.json"
        self.seconds: dict[str, float] = json.loads(self._timing.read_text()) if self._timing.is_file() else {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Run one named step; its seconds add to those of earlier calls, also when it is interrupted."""
        began = time.perf_counter()
        sys.stderr.write(f"[{NAMES.index(name) + 1}/{len(NAMES)}] {name}\n")
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
            write_atomic(self._timing, json.dumps(self.seconds))

    def say(self, text: str) -> None:
        """Show one line of progress within a step."""
        sys.stderr.write(f"      {text}\n")
        sys.stderr.flush()

    def write_facts(self, facts: Mapping[str, Any]) -> None:
        """Write `study.json`: what the report must know beside the records."""
        wall = {**self.seconds, "total": sum(self.seconds.values())}
        machine = {"cores": self.workers, "processor": _processor(), "platform": f"{platform.system()} {platform.machine()}"}
        versions = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
        text = json.dumps({**facts, "wall_seconds": wall, "machine": machine, "versions": versions}, indent=1)
        write_atomic(self.work / "study.json", text)


def make_logs(config: MarketplaceConfig, out: Path, stages: Stages) -> dict[str, Any]:
    """Generate the shop's logs unless they are there already; return their manifest.

    Raises:
      InputError: `out` holds logs of another configuration.
    """
    if out.exists():
        found = manifest.read(out, kind="logs")
        if found["config"] != to_plain(config):
            raise InputError(f"{out}: logs of another shop or version; remove {out.parent} or give another --work")
        stages.say(f"{found['counts']['candidates']:,} candidates are there already")
        return found
    began = time.perf_counter()

    def progress(done: int, total: int) -> None:
        left = (time.perf_counter() - began) * (total - done) / max(done, 1)
        stages.say(f"{done:,}/{total:,} requests, {left:.0f} s left")

    return generate(config, out, workers=stages.workers, progress=progress)


def make_samples(
    logs: Path, out: Path, compositions: Sequence[str], stages: Stages, *, config: ES3Config | None = None
) -> dict[str, dict[str, Any]]:
    """Build the compositions that are not there yet; return all their manifests. `config` is ES3's own by default.

    Raises:
      InputError: samples of other logs or another configuration are in the way.
    """
    fingerprint = manifest.read(logs, kind="logs")["fingerprint"]
    config = dataclasses.replace(config or ES3Config(composition=compositions[-1]), composition=compositions[-1])
    missing = [name for name in compositions if not (out / name).exists()]
    if missing:
        stages.say(f"building {', '.join(missing)}")
        es3.build_all(logs, out, config, missing, threads=stages.workers)
    made = {name: manifest.read(out / name, kind="samples") for name in compositions}
    for name, m in made.items():
        wanted = {**to_plain(config), "composition": name, "logs": fingerprint}
        if m["config"] != wanted:
            raise InputError(
                f"{out / name}: samples of other logs or another version; remove {out.parent} or give another --work"
            )
    return made


def _check_writable(folder: Path) -> None:
    """Fail before hours of work, not after."""
    probe = folder / ".writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as e:
        raise InputError(f"{folder}: cannot be written ({e.strerror}); give another folder") from e
    if shutil.disk_usage(folder).free < 2**29:
        raise InputError(f"{folder}: less than 512 MiB are free on its disk; free some space or give another folder")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"
