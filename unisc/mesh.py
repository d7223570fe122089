"""Devices: the (data, model) mesh, which mesh axis each logical axis is split over, and arrays on it.

Of several processes (`unisc.distributed`) each has on its devices their share; what it is asked to place it holds whole.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from unisc.errors import InputError

DATA, MODEL = "data", "model"
T = TypeVar("T")

LOGICAL_AXES: Mapping[str, str | tuple[str, ...] | None] = {
    "batch": (DATA, MODEL),  # candidates and requests
    "run": (DATA, MODEL),  # whole runs trained beside each other
    "row": (DATA, MODEL),  # rows of the embedding store
    "expert": MODEL,  # domain experts
    "hidden": MODEL,  # the inner width of feed-forward blocks
    "width": None,  # replicated
}


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


def place(tree: T, shardings: Any) -> T:
    """Put the leaves of `tree`, which every process holds whole and alike, where `shardings`, a prefix of it, says.

    Nothing is sent between processes: each cuts out its own devices' shares.
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)

    def put(x: Any, to: Sharding) -> jax.Array:
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(x), to), impl=jax.random.key_impl(x))
        held = np.asarray(x)
        return jax.make_array_from_callback(held.shape, to, lambda index: held[index])

    return jax.tree.map(lambda to, part: jax.tree.map(lambda x: put(x, to), part), shardings, tree)


def collect(tree: T) -> T:
    """Return `tree` whole on one device of this process: all processes take part, and each gets all of it.

    Leaf by leaf, so that no more than the largest is on every device at once.
    """
    device = jax.local_devices()[0]
    if jax.process_count() == 1:
        return jax.device_put(tree, device)

    def fetch(x: jax.Array) -> jax.Array:
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(fetch(jax.random.key_data(x)), impl=jax.random.key_impl(x))
        if not x.is_fully_replicated:
            assert isinstance(x.sharding, NamedSharding)
            x = jax.jit(_same, out_shardings=NamedSharding(x.sharding.mesh, PartitionSpec()))(x)
        return jax.device_put(x.addressable_data(0), device)

    return jax.tree.map(fetch, tree)


def _same(x: jax.Array) -> jax.Array:
    return x
