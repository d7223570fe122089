"""How a set of small runs is placed on one machine: so many processes, and one program a run or one for several.

On a CPU: a process a processor, one program a run, whatever the model. Eight runs of DLRM xs (batches of 512 candidates, 620
steps each), 4 cores, examples a second over those of one process that trains run after run on all cores
(`benchmarks/sweep_aggregate.py`; medians of two rounds, lowest in brackets, under a load of 15 to 20 by other programs, so that
the order counts and the size does not):

    way                                     while training    start to end, imports and compilation included
    processes, one a core                   5.3 [4.4]         0.7 [0.6]
    one process, all runs as one program    1.7 [1.3]         1.4 [1.2]
    processes with one program each         1.6 [1.2]         0.5 [0.4]

On the quiet machine processes gave 2.9 [2.8] while training and 2.0 [1.9] from start to end (two rounds), of HHSFT xs 5.5 [3.7]
and 3.1 [2.2].
Processes pack their own batches; one program waits for the one Python thread that packs for all. Inside a core, a program of
several runs saves nothing: processor time a step is 1.7 ms alone and 1.8 ms two at a time, 1.9 and 1.9 ms at eight; of HHSFT xs
30 and 27 ms two at a time. These runs, over in 3 seconds once the programs stand, are nearly all start-up, where one process
that compiles once is ahead; the longer runs train, the more the first column is what counts. Eight transformers of width 16
gave processes 2.0, one program 0.8 on one device and 1.4 with a virtual device a core (training alone).

On an accelerator: one process, and runs of one compile key as one program (`unisc.train.packed`), since steps of small models
are over before the next can be called, and processes would each take their share of its memory. Not measured here.
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
