"""Adds up a number over the processes that execute a run together, for which all must be there, or dies where told to."""

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from unisc.config import Runtime

VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """In its first attempt the process `dies` is killed, -1 for none; `secs` pass between the two sums."""

    index: int
    dies: int = -1
    secs: float = 0.0


def run(config: Config, runtime: Runtime) -> Mapping[str, Any]:
    """Return the sum of all processes' ranks, and how many they are."""
    rank = jax.process_index()
    ranks = np.asarray(multihost_utils.process_allgather(np.int32(rank)))
    with (Path(runtime.data_dir) / f"ranks-{rank}.txt").open("a") as f:
        f.write(f"{config.index} {os.getpid()}\n")
    marker = Path(runtime.work_dir) / "tried"
    if rank == config.dies and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(config.secs)
    total = int(np.asarray(multihost_utils.process_allgather(np.int32(rank))).sum())
    return {"metrics": {"eval/sum": float(total)}, "counts": {"processes": len(ranks)}}
