"""Between the flat layout of a batch's candidates and one row a request, so that a list can meet its context in one product."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from unisc.dims import RequestIndex
from unisc.errors import InputError


def to_lists(x: Float[Array, "B *rest"], lists: Int[Array, "R C"], request_index: RequestIndex) -> Float[Array, "R C *rest"]:
    """Lay each request's candidates side by side; empty slots are zero. Raises InputError if the batch has no lists."""
    requests, slots = lists.shape
    if not slots:
        raise InputError("list_len 0: this model scores a request's candidates together; give the batches a list_len")
    return _permute(x, lists.reshape(-1), _places(lists, request_index)).reshape(requests, slots, *x.shape[1:])


def from_lists(y: Float[Array, "R C *rest"], lists: Int[Array, "R C"], request_index: RequestIndex) -> Float[Array, "B *rest"]:
    """Lay the candidates of all requests end to end again; padding candidates are zero."""
    return _permute(y.reshape(-1, *y.shape[2:]), _places(lists, request_index), lists.reshape(-1))


def _places(lists: Int[Array, "R C"], request_index: RequestIndex) -> Int[Array, "B"]:
    """Return each candidate's place among the R x C slots; R x C for padding."""
    requests, slots = lists.shape
    candidates = jnp.arange(request_index.shape[0], dtype=jnp.int32)
    places = request_index * slots + candidates - lists[request_index, 0]
    held = lists.reshape(-1).at[places].get(mode="fill", fill_value=-1)
    return jnp.where(held == candidates, places, requests * slots)


@functools.partial(jax.custom_vjp, nondiff_argnums=())
def _permute(x: Float[Array, "N *rest"], take: Int[Array, "M"], back: Int[Array, "N"]) -> Float[Array, "M *rest"]:
    """Return x[take], zero where `take` is out of range; `back` is the inverse, and reads the gradient by a gather, too."""
    return x.at[take].get(mode="fill", fill_value=0)


def _forward(x: Array, take: Array, back: Array) -> tuple[Array, tuple[Array, Array]]:
    return _permute(x, take, back), (take, back)


def _backward(saved: tuple[Array, Array], slope: Array) -> tuple[Array, np.ndarray, np.ndarray]:
    take, back = saved
    none = [np.zeros(i.shape, jax.dtypes.float0) for i in (take, back)]
    return slope.at[back].get(mode="fill", fill_value=0), none[0], none[1]


_permute.defvjp(_forward, _backward)
