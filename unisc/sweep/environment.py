"""What a run ran on, without naming the host: kept in its record so that a number can be explained later."""

import functools
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("unisc", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "scipy", "pyarrow", "duckdb")


def describe(source: Path | None) -> dict[str, Any]:
    """Return Python, system, package versions, processors and, where `source` lies in a git checkout, its commit."""
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "num_cpus": os.cpu_count(),
        "num_cpus_used": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "packages": {name: found for name in PACKAGES if (found := _version(name)) is not None},
        **_git(source),
        **_device(),
    }


def start_peak_memory() -> None:
    """Begin measuring this process's peak memory afresh, where the kernel allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def peak_memory_bytes() -> int | None:
    """Return the peak resident memory since `start_peak_memory`; None where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


@functools.cache
def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


@functools.cache
def _git(source: Path | None) -> dict[str, Any]:
    if source is None:
        return {"git_commit": None, "git_dirty": None}
    commit = _git_output(source, "rev-parse", "HEAD")
    dirty = None if commit is None else _git_output(source, "status", "--porcelain", "--untracked-files=no")
    return {"git_commit": commit, "git_dirty": None if dirty is None else bool(dirty)}


def _git_output(source: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(source), *arguments], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _device() -> dict[str, Any]:
    """The accelerator JAX used, if the run used JAX; looked up, never imported."""
    jax = sys.modules.get("jax")
    try:
        return {} if jax is None else {"device_kind": jax.devices()[0].device_kind, "device_platform": jax.default_backend()}
    except RuntimeError:
        return {}
