"""Which environments count as a cluster, and how logical axes map to the mesh."""

import os
import subprocess
import sys

import jax
import pytest
from jax.sharding import PartitionSpec

from unisc.errors import InputError
from unisc.mesh import cluster_env, initialize_distributed, make_mesh, partition

SLURM = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"JAX_COORDINATOR_ADDRESS": "host:1234"}, "explicit"),
        (SLURM, "slurm"),
        (SLURM | {"SLURM_NTASKS": "1"}, None),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, None),
        ({"OMPI_MCA_orte_hnp_uri": "0;tcp://h:1", "OMPI_COMM_WORLD_SIZE": "2"}, "openmpi"),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "tpu"),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}, "kubernetes"),
    ],
)
def test_only_several_cooperating_processes_are_a_cluster(environ, expected):
    assert cluster_env(environ) == expected


def test_a_process_on_its_own_joins_nothing(monkeypatch):
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **k: pytest.fail("joined"))
    assert not initialize_distributed({})


def test_errors_of_joining_propagate(monkeypatch):
    def fail(address, *, num_processes, process_id):
        assert (address, num_processes, process_id) == ("host:1234", 2, 1)
        raise RuntimeError("no coordinator")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(RuntimeError, match="no coordinator"):
        initialize_distributed({"JAX_COORDINATOR_ADDRESS": "host:1234", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"})


def test_logical_axes_map_to_mesh_axes():
    assert partition("batch", None, "width") == PartitionSpec(("data", "model"), None, None)
    assert partition("row", "width") == PartitionSpec(("data", "model"), None)
    with pytest.raises(KeyError):
        partition("colour")


def test_a_mesh_needs_a_divisor():
    assert make_mesh().shape == {"data": jax.device_count(), "model": 1}
    with pytest.raises(InputError, match="model axis"):
        make_mesh(model=jax.device_count() + 1)


def test_a_batch_is_split_over_four_devices():
    code = (
        "import jax, jax.numpy as jnp\n"
        "from unisc.mesh import make_mesh, sharding\n"
        "mesh = make_mesh(model=2)\n"
        "assert dict(mesh.shape) == {'data': 2, 'model': 2}, mesh\n"
        "x = jax.device_put(jnp.arange(32.0).reshape(8, 4), sharding(mesh, 'batch', 'width'))\n"
        "assert {s.data.shape for s in x.addressable_shards} == {(2, 4)}\n"
        "assert jax.jit(jnp.sum)(x) == 496\n"
    )
    environ = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
