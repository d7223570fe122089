"""Several processes, one run: forming the cluster whole or not at all, and agreeing on what to train."""

import json
import os
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from unisc.cluster import JOIN_SECS, Cluster, call_roll
from unisc.config import canonical
from unisc.errors import InputError, run_command

START_SECS = 120
"""What JAX is given to connect processes of which each is known to be there."""
FACT_BYTES = 2048


def join(cluster: Cluster, *, join_secs: float = JOIN_SECS) -> None:
    """Call the roll, start `jax.distributed`, and check that the cluster is the one asked for. Before the first computation.

    Package versions that differ are warned about by process 0.

    Raises:
      InputError: a process is missing after `join_secs`, or there twice; processes that expect other numbers, or whose numbers
        of devices differ.
    """
    call_roll(cluster, join_secs=join_secs)
    # Its handler of SIGTERM would keep a process that is told to end.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        cluster.coordinator,
        num_processes=cluster.num_processes,
        process_id=cluster.process_id,
        local_device_ids=cluster.local_device_ids,
        cluster_detection_method="deactivate",
        initialization_timeout=START_SECS,
    )
    devices = Counter(device.process_index for device in jax.devices())
    if jax.process_count() != cluster.num_processes or len(devices) != cluster.num_processes:
        raise InputError(
            f"cluster: {len(devices)} processes have devices, {cluster.num_processes} were asked for; see what backend each has"
        )
    if len(set(devices.values())) > 1:
        counts = ", ".join(f"{devices[i]} on process {i}" for i in sorted(devices))
        raise InputError(f"devices: {counts}; give every process as many")


def agree(facts: Mapping[str, str]) -> None:
    """Compare facts over all processes, by a collective: all take part, and all raise or none.

    Raises:
      InputError: the first fact that is not the same everywhere, named with two processes that differ.
    """
    if jax.process_count() == 1:
        return
    text = canonical(dict(facts)).encode()
    if len(text) > FACT_BYTES:
        raise ValueError(f"facts of {len(text)} bytes, more than {FACT_BYTES}")
    sent = np.frombuffer(text.ljust(FACT_BYTES), np.uint8)
    texts = [row.tobytes() for row in np.asarray(multihost_utils.process_allgather(sent))]
    if len(set(texts)) == 1:
        return
    found = [json.loads(text) for text in texts]
    for name in found[0]:
        for index, other in enumerate(found):
            if other.get(name) != found[0][name]:
                raise InputError(
                    f"{name}: {found[0][name]} on process 0, {other.get(name)} on process {index}; start all with the same"
                    " command, samples and code"
                )
    raise InputError("processes: of other programs; start all with the same command and code")


def is_first() -> bool:
    """Say whether this process writes what is written once: logs, records, files of scores."""
    return jax.process_index() == 0


@contextmanager
def leave_at_once() -> Iterator[None]:
    """Run a command's body; of several processes, one that fails shows its error and is gone, for the others to see.

    Else it would wait for them, at its end, to end, and they for it, in the middle of a step.
    """
    try:
        yield
    except BaseException as e:
        if not jax.distributed.is_initialized():
            raise
        failed, status = e, 1

        def again() -> None:
            raise failed

        try:
            run_command("unisc", again)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def told_by_any(is_told: Callable[[], bool]) -> Callable[[], bool]:
    """Return a question that all processes ask once a step, and which all answer alike: whether any of them was told.

    Of several processes it answers as things stood a step before, so that nobody waits for the answer.
    """
    if jax.process_count() == 1:
        return is_told
    everywhere = Mesh(np.array(jax.devices()), ("device",))
    shares, whole = NamedSharding(everywhere, PartitionSpec("device")), NamedSharding(everywhere, PartitionSpec())
    any_of, asked = jax.jit(jnp.any, out_shardings=whole), []

    def ask() -> bool:
        own = np.array([is_told()])
        asked.append(any_of(jax.make_array_from_callback((everywhere.size,), shares, lambda index: own)))
        return len(asked) > 1 and bool(asked.pop(0))

    return ask
