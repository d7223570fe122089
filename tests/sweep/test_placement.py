"""Where runs go: a process a processor on a CPU, one process with one program of several runs on an accelerator."""

import pytest

from unisc.sweep.placement import Placement, place


@pytest.mark.parametrize(
    ("num_runs", "num_processors", "threads", "workers"),
    [(8, 4, 1, 4), (2, 4, 1, 2), (8, 4, 2, 2), (8, 4, 3, 1), (8, 2, 4, 1), (0, 4, 1, 1)],
)
def test_processors_are_shared_out_among_processes_and_never_twice(num_runs, num_processors, threads, workers):
    placed = place(num_runs, num_processors=num_processors, threads=threads, environ={})
    assert placed == Placement(workers=workers, threads=threads, packs=False)
    assert workers == 1 or placed.workers * threads <= num_processors


def test_an_accelerator_has_one_process_and_packs():
    assert place(8, num_processors=16, environ={"JAX_PLATFORMS": "cuda"}) == Placement(workers=1, threads=1, packs=True)
    assert place(8, num_processors=16, environ={"JAX_PLATFORMS": "tpu,cpu"}).packs
    assert not place(8, num_processors=16, environ={"JAX_PLATFORMS": "cpu"}).packs
