"""How logical axes map to the mesh, and what a device then has."""

import os
import subprocess
import sys

import jax
import pytest
from jax.sharding import PartitionSpec

from unisc.errors import InputError
from unisc.mesh import make_mesh, partition


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
