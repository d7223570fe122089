"""Several processes, one run: finding the cluster, forming it whole or not at all, and agreeing on what to train.

JAX ends a process that cannot connect with a stack trace of C++, after five minutes, and takes whoever calls himself process 1.
So the processes call the roll first, over a TCP port of their own agreement: who is missing, who is there twice and who expects
another number is said in one line, within a time that was given. Only then does `jax.distributed` start, on the same port.
"""

import json
import os
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from unisc.config import canonical
from unisc.errors import InputError, run_command
from unisc.wire import Wire, accept, dial, listen, split_address

JOIN_SECS = 300.0
START_SECS = 120
"""What JAX is given to connect processes of which each is known to be there."""
PACKAGES = ("unisc", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
FACT_BYTES = 2048
_ADDRESS, _COUNT, _INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """A process's place among those that train together. `local_device_ids` are its accelerators, all of the host's if None."""

    coordinator: str
    num_processes: int
    process_id: int
    local_device_ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        split_address(self.coordinator)
        if self.num_processes < 1:
            raise InputError(f"--processes {self.num_processes}: give at least 1")
        if not 0 <= self.process_id < self.num_processes:
            raise InputError(f"--process-id {self.process_id}: give one from 0 to {self.num_processes - 1}")


def cluster_env(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the name of the multi-process environment this process was started in, or None for a process on its own.

    Only marks of several cooperating processes count: a Slurm job of one task, or a lone Kubernetes pod, is on its own.
    """
    if _ADDRESS in environ:
        return "explicit"
    if "OMPI_MCA_orte_hnp_uri" in environ and int(environ.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        return "openmpi"
    if "SLURM_PROCID" in environ and int(environ.get("SLURM_STEP_NUM_TASKS", environ.get("SLURM_NTASKS", "1"))) > 1:
        return "slurm"
    if "," in environ.get("TPU_WORKER_HOSTNAMES", ""):
        return "tpu"
    if "KUBERNETES_SERVICE_HOST" in environ and "JOB_COMPLETION_INDEX" in environ:
        return "kubernetes"
    return None


def find_cluster(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
) -> Cluster | None:
    """Return the cluster that the arguments, the environment or JAX's own detection name; None for a process on its own.

    What is given goes before JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, and they before what JAX finds of
    Open MPI, Slurm, TPU pods and Kubernetes.

    Raises:
      InputError: an address without a number, a place without an address, or an environment of several processes in which JAX
        finds no address.
    """
    kind = "explicit" if coordinator is not None else cluster_env(environ)
    if kind is None:
        if num_processes is None and process_id is None:
            return None
        if num_processes == 1 and not process_id:
            return None
        raise InputError("--processes and --process-id: of no cluster; give --coordinator HOST:PORT, the address of process 0")
    given: list[Any] = [
        coordinator or environ.get(_ADDRESS),
        _whole(_COUNT, environ) if num_processes is None else num_processes,
        _whole(_INDEX, environ) if process_id is None else process_id,
    ]
    devices = None
    if None in given:
        *given, devices = _detected(kind, given)
    if None in given:
        names = zip(("address (--coordinator)", "number (--processes)", "place (--process-id)"), given, strict=True)
        missing = ", ".join(name for name, value in names if value is None)
        raise InputError(
            f"{kind} cluster: no {missing} of its processes; start all by its launcher (srun, mpirun, an indexed Job with the"
            " kubernetes package), or say it"
        )
    address, count, index = given
    if count == 1:
        return None
    return Cluster(
        coordinator=address, num_processes=count, process_id=index, local_device_ids=None if devices is None else tuple(devices)
    )


def _detected(kind: str, given: list[Any]) -> tuple[Any, ...]:
    from jax._src.clusters import ClusterEnv  # has no public name, and initialize() would start what it finds

    try:
        return ClusterEnv.auto_detect_unset_distributed_params(*given, None, None, int(JOIN_SECS))
    except (RuntimeError, OSError, KeyError, ValueError) as e:
        raise InputError(f"{kind} cluster: not understood ({e}); give --coordinator, --processes and --process-id") from e


def _whole(name: str, environ: Mapping[str, str]) -> int | None:
    try:
        return int(environ[name]) if name in environ else None
    except ValueError as e:
        raise InputError(f"{name}={environ[name]!r}: not a whole number; correct it") from e


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


def call_roll(cluster: Cluster, *, join_secs: float, facts: Mapping[str, str] | None = None) -> None:
    """Return once all processes of a cluster have answered to process 0, and it to them.

    Raises:
      InputError: as `join`, but for the devices.
    """
    until, here = time.monotonic() + join_secs, _versions() if facts is None else dict(facts)
    hello = {"process": cluster.process_id, "of": cluster.num_processes, "facts": here}
    host, port = split_address(cluster.coordinator)
    if cluster.process_id == 0:
        _ask(cluster, port, until, join_secs, here)
        return
    while (wire := dial(host, port, until)) is not None:
        wire.send(hello)
        while wire.is_open and time.monotonic() < until:
            for answer in wire.hear(0.2):
                wire.close()
                if answer.get("error"):
                    raise InputError(str(answer["error"]))
                return
        wire.close()  # process 0 was started again, or another program had the port: call once more
        time.sleep(0.1)
    raise InputError(
        f"coordinator {cluster.coordinator}: no answer to process {cluster.process_id} within {join_secs:g} s; start process 0"
        " there, and see that the port is open"
    )


def _ask(cluster: Cluster, port: int, until: float, join_secs: float, here: Mapping[str, str]) -> None:
    count = cluster.num_processes
    wires: dict[int, Wire] = {}
    facts: dict[int, Mapping[str, str]] = {0: here}
    wrong = None
    with listen(port) as server:
        while wrong is None and len(wires) < count - 1 and time.monotonic() < until:
            wires = {index: wire for index, wire in wires.items() if not wire.hear(0) and wire.is_open}
            wire = accept(server, 0.1)
            hello = _first(wire) if wire is not None else None
            if wire is None or hello is None:
                continue
            index, of = hello.get("process"), hello.get("of")
            if of != count:
                wrong = f"processes: {count} by process 0, {of} by process {index}; give all the same number"
            elif index not in range(1, count) or index in wires:
                wrong = f"process id {index}: given to two processes; number them from 0 to {count - 1}"
            wires[index if wrong is None else -1] = wire  # who is wrong is told so as well
            facts[index] = hello.get("facts", {})
        if wrong is None and len(wires) < count - 1:
            missing = [str(i) for i in range(1, count) if i not in wires]
            wrong = (
                f"cluster: of {count} processes {', '.join(missing)} did not call within {join_secs:g} s; start all, with"
                f" --coordinator {cluster.coordinator}"
            )
        for wire in wires.values():
            wire.send({"error": wrong})
            wire.close()
    if wrong is not None:
        raise InputError(wrong)
    for name in sorted({name for found in facts.values() for name in found}):
        if len({found.get(name) for found in facts.values()}) > 1:
            shown = ", ".join(f"{facts[i].get(name)} on process {i}" for i in sorted(facts))
            warnings.warn(f"{name}: {shown}; install one version on all hosts", stacklevel=2)


def _first(wire: Wire) -> dict[str, Any] | None:
    until = time.monotonic() + 2.0
    while wire.is_open and time.monotonic() < until:
        if messages := wire.hear(0.1):
            return messages[0]
    wire.close()
    return None


def _versions() -> dict[str, str]:
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


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
