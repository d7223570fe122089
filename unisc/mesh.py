"""Devices: joining a cluster, the (data, model) mesh, and which mesh axis each logical axis is split over."""

import os
from collections.abc import Mapping, Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from unisc.errors import InputError

DATA, MODEL = "data", "model"

LOGICAL_AXES: Mapping[str, str | tuple[str, ...] | None] = {
    "batch": (DATA, MODEL),  # candidates and requests
    "run": (DATA, MODEL),  # whole runs trained beside each other
    "row": (DATA, MODEL),  # rows of the embedding store
    "expert": MODEL,  # domain experts
    "hidden": MODEL,  # the inner width of feed-forward blocks
    "width": None,  # replicated
}


def cluster_env(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the name of the multi-process environment this process was started in, or None for a process on its own.

    Only marks of several cooperating processes count: a Slurm job of one task, or a lone Kubernetes pod, is on its own.
    """
    if "JAX_COORDINATOR_ADDRESS" in environ:
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


def initialize_distributed(environ: Mapping[str, str] = os.environ) -> bool:
    """Join the cluster if this process is part of one, and say whether it did.

    Errors propagate: a pod that cannot form must not train as so many single hosts. Call before the first JAX computation.
    """
    if cluster_env(environ) is None or jax.distributed.is_initialized():
        return jax.distributed.is_initialized()
    # JAX reads the coordinator's address from the environment, but not how many processes there are and which this one is.
    count, rank = (int(environ[name]) if name in environ else None for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"))
    jax.distributed.initialize(environ.get("JAX_COORDINATOR_ADDRESS"), num_processes=count, process_id=rank)
    return True


def make_mesh(*, model: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Return the mesh (data, model) over some devices (all by default), `model` of them along the model axis.

    Raises:
      InputError: `model` does not divide the number of devices.
    """
    count = jax.device_count() if devices is None else len(devices)
    if model < 1 or count % model:
        raise InputError(f"mesh: {count} devices cannot be split {model} ways along the model axis; give a divisor of {count}")
    return jax.make_mesh((count // model, model), (DATA, MODEL), axis_types=(AxisType.Auto, AxisType.Auto), devices=devices)


def partition(*axes: str | None) -> PartitionSpec:
    """Return the partition of an array whose dimensions carry these logical axes (None: replicated).

    Raises:
      KeyError: an axis that LOGICAL_AXES does not know.
    """
    return PartitionSpec(*(None if axis is None else LOGICAL_AXES[axis] for axis in axes))


def sharding(mesh: Mesh, *axes: str | None) -> NamedSharding:
    """Return the sharding on `mesh` of an array whose dimensions carry these logical axes."""
    return NamedSharding(mesh, partition(*axes))
