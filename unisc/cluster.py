"""Which processes train one run together, and whether all are there: no JAX is started here.

JAX ends a process that cannot connect with a stack trace of C++, after five minutes, and takes whoever calls itself process 1.
So the processes call the roll first, over the port on which JAX will then start: who is missing, who is there twice and who
expects another number is said in one line, within a time that was given.
"""

import os
import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from unisc.errors import InputError
from unisc.wire import Wire, accept, dial, listen, split_address

JOIN_SECS = 300.0
PACKAGES = ("unisc", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
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

    address, count, index = given
    try:
        return ClusterEnv.auto_detect_unset_distributed_params(address, count, index, None, None, int(JOIN_SECS))
    except (RuntimeError, OSError, KeyError, ValueError) as e:
        raise InputError(f"{kind} cluster: not understood ({e}); give --coordinator, --processes and --process-id") from e


def _whole(name: str, environ: Mapping[str, str]) -> int | None:
    try:
        return int(environ[name]) if name in environ else None
    except ValueError as e:
        raise InputError(f"{name}={environ[name]!r}: not a whole number; correct it") from e


def call_roll(cluster: Cluster, *, join_secs: float, facts: Mapping[str, str] | None = None) -> None:
    """Return once all processes of a cluster have answered to process 0, and it to them.

    Process 0 warns of `facts`, package versions by default, that differ.

    Raises:
      InputError: a process is missing after `join_secs`, or there twice; processes that expect other numbers.
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
            if wrong is None and index is not None:
                wires[index], facts[index] = wire, hello.get("facts", {})
            else:
                wires[-1] = wire  # who is wrong is told so as well
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
        if (message := wire.hear_one(0.1)) is not None:
            return message
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
