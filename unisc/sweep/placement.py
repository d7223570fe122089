"""How a set of small runs is placed on one machine: so many processes, and one program a run or one for several.

TABLE
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """So many workers, each pinned to `threads` processors of its own where the backend is the CPU.

    With `packs`, runs that share a compile key are better trained as one program than one after the other.
    """

    workers: int
    threads: int
    packs: bool


def place(num_runs: int, *, num_processors: int, threads: int = 1, environ: Mapping[str, str] = os.environ) -> Placement:
    """Return the placement of `num_runs` runs on this machine; a sweep runs on the CPU unless JAX_PLATFORMS says otherwise."""
    if environ.get("JAX_PLATFORMS", "cpu").split(",")[0] != "cpu":
        return Placement(workers=1, threads=threads, packs=True)
    return Placement(workers=max(min(num_processors // threads, num_runs), 1), threads=threads, packs=False)
