"""The environment in which JAX trains fastest on a CPU, set before a process starts, since neither part can change later.

Measured on the reference ranker (`benchmarks/train_step.py`): XLA runs many CPU operations on one thread, so that the batch is
better split over as many virtual devices as there are cores; glibc, left alone, gives freed pages back, which a step then
pays for again; and a device that waits for the others, to add something up, holds one of the threads that all devices share.
With a thread a core, three devices that wait leave the fourth a single thread for what it has still to do: a step of the
decoder took 1.1 s as often as 0.6 s (`benchmarks/decoder_step.py`).
"""

import os
import platform
import sys
from collections.abc import Mapping

_DEVICES = "--xla_force_host_platform_device_count"
_THREADS = "PJRT_NPROC"
_MARK = "UNISC_CPU_DEVICES"


def keep_memory() -> dict[str, str]:
    """Return the settings by which glibc keeps freed memory; none where another allocator serves."""
    if platform.libc_ver()[0] != "glibc":
        return {}
    return {
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": "17179869184",
        "MALLOC_TRIM_THRESHOLD_": "34359738368",
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    }


def training_environment(num_devices: int, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return an environment for a process that trains on `num_devices` virtual CPU devices; what the user has set stays."""
    flags = environ.get("XLA_FLAGS", "")
    if _DEVICES not in flags:
        flags = f"{flags} {_DEVICES}={num_devices}".strip()
    # All devices but one may wait, and a thread a core is left; one device alone shares its operations out among all cores.
    threads = {_THREADS: str(max(2 * num_devices - 1, num_cores()))}
    return {**keep_memory(), **threads, **environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, _MARK: str(num_devices)}


def num_cores() -> int:
    """Return the processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def restart(num_devices: int) -> None:
    """Start this very command again in the environment for training, unless it is there already; does not return then."""
    if os.environ.get(_MARK) != str(num_devices):
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], training_environment(num_devices))
