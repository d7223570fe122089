"""What a worker finds where it starts: environment variables for its platform, and the devices its profile promises."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from unisc.cpu import keep_memory
from unisc.errors import InputError

DEVICE_FILES = {"cuda": ("nvidia[0-9]*", "dxg"), "tpu": ("accel[0-9]*", "vfio/[0-9]*")}
"""Where Linux shows accelerators, in /dev; dxg is the one file behind which the Windows subsystem has its GPUs."""


def variables(sweep_dir: Path, num_threads: int, *, platform: str = "cpu") -> dict[str, str]:
    """Return the environment variables of a worker with `num_threads` processors of its own.

    Thread counts: XLA's CPU client sizes its pools by NPROC and the processors it may use; `--xla_cpu_multi_thread_eigen`
    and a bare `intra_op_parallelism_threads` in XLA_FLAGS change nothing or abort in jaxlib 0.10 (measured), so neither is
    set. Memory: glibc keeps freed pages, because fresh ones cost more than the arithmetic on them. JAX fails where a platform
    that is named is missing; it would train on the CPU in silence otherwise.
    """
    threads = str(num_threads)
    return {
        "NPROC": threads,
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "JAX_PLATFORMS": "cpu" if platform == "cpu" else f"{platform},cpu",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "JAX_COMPILATION_CACHE_DIR": str(sweep_dir / "compile_cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "PYTHONFAULTHANDLER": "1",
        "PYTHONUNBUFFERED": "1",
        **keep_memory(),
    }


def environment(sweep_dir: Path, num_threads: int, *, platform: str | None = None) -> dict[str, str]:
    """Return a worker's environment: what the user has set here stays, but for JAX_PLATFORMS where a `platform` is given."""
    wanted = variables(sweep_dir, num_threads, platform=platform or "cpu")
    env = {**wanted, **os.environ}
    if platform is not None:
        env["JAX_PLATFORMS"] = wanted["JAX_PLATFORMS"]
    return env


def name_of(sweep_dir: Path) -> str:
    """Return a sweep's name for an engine's lists: its folder's, or that of the folder around it where it is just `sweep`."""
    return sweep_dir.parent.name if sweep_dir.name == "sweep" and sweep_dir.parent.name else sweep_dir.name


def check_workers(workers: int) -> None:
    """Raise InputError for fewer than one worker."""
    if workers < 1:
        raise InputError(f"workers: {workers} is fewer than 1; give 1 or more")


def check_devices(platform: str, count: int, *, dev: Path = Path("/dev"), environ: Mapping[str, str] = os.environ) -> None:
    """Raise InputError where this machine shows fewer than `count` accelerators of a platform; no driver is asked.

    Devices that CUDA_VISIBLE_DEVICES hides do not count. Only Linux shows devices as files; elsewhere nothing is checked.
    """
    if platform not in DEVICE_FILES or count < 1 or not sys.platform.startswith("linux"):
        return
    one_file, shared = DEVICE_FILES[platform]
    found = len(list(dev.glob(one_file)))
    if platform == "tpu":
        found = found or len(list(dev.glob(shared)))
    elif (dev / shared).exists():
        return
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if platform == "cuda" and visible is not None:
        found = min(found, len([name for name in visible.split(",") if name.strip() not in ("", "-1")]))
    if found < count:
        name = {"cuda": "GPU", "tpu": "TPU"}[platform]
        raise InputError(f"profile: wants {count} {name}s and this machine has {found}; give a profile of this machine")
