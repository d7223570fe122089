"""Work of a function counted from its trace, by the rules of XLA's cost analysis: the link between the closed forms and XLA.

The closed forms (`unisc.models.counts`) are of matrix products alone; XLA counts elementwise work, too. Counting both from the
trace closes the gap: `products` equal the closed forms exactly, and `products + elementwise` equal the "flops" of
`jax.jit(f).lower(...).cost_analysis()`, that of the program as written, to 1 % for every ranker, size and variant (XLA folds
what is constant, at most 0.6 % so far). After compilation it may be more: fusions repeat elementwise work.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.extend.core import Literal

# fmt: off
ELEMENTWISE = {
    "abs", "add", "and", "clamp", "convert_element_type", "div", "eq", "floor", "ge", "gt", "le", "lt", "max", "min",
    "mul", "ne", "neg", "not", "or", "rem", "select_n", "sign", "sub",
}
# fmt: on
"""One FLOP an element of the result, whatever its type."""

TRANSCENDENTAL = {"cbrt", "cos", "erf", "exp", "exp2", "expm1", "log", "log1p", "pow", "rsqrt", "sin", "sqrt", "tanh"}
"""One an element of the result, which XLA counts apart from FLOPs."""

REDUCTIONS = {"reduce_and", "reduce_max", "reduce_min", "reduce_or", "reduce_prod", "reduce_sum"}
"""One FLOP an element that is folded into another."""

# fmt: off
FREE = {
    "broadcast_in_dim", "concatenate", "copy", "iota", "pad", "reshape", "rev", "slice", "split", "squeeze", "stack",
    "stop_gradient", "top_k", "transpose",
}
# fmt: on
"""What moves numbers or only names them; a sort, too, is no FLOP."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceCount:
    """FLOPs of matrix products (2 a multiply-add), FLOPs of all other arithmetic, and transcendental functions."""

    products: int = 0
    elementwise: int = 0
    transcendental: int = 0

    def __add__(self, other: "TraceCount") -> "TraceCount":
        return TraceCount(
            products=self.products + other.products,
            elementwise=self.elementwise + other.elementwise,
            transcendental=self.transcendental + other.transcendental,
        )


def count(function: Callable[..., Any], *args: Any) -> TraceCount:
    """Trace a function on arrays, or on their shapes alone, and count its work; nothing is computed.

    Raises:
      ValueError: the trace holds an operation without a rule here, such as a loop.
    """
    return count_jaxpr(jax.make_jaxpr(function)(*args).jaxpr)


def count_jaxpr(jaxpr: Any) -> TraceCount:
    """Count the work of a trace already made."""
    total = TraceCount()
    for eqn in jaxpr.eqns:
        total += _count_eqn(eqn)
    return total


def _count_eqn(eqn: Any) -> TraceCount:
    name, params = eqn.primitive.name, eqn.params
    size = sum(int(np.prod(out.aval.shape)) for out in eqn.outvars)
    if name == "dot_general":
        contracted, shape = params["dimension_numbers"][0][0], eqn.invars[0].aval.shape
        return TraceCount(products=2 * size * int(np.prod([shape[axis] for axis in contracted])))
    if name in ("jit", "custom_jvp_call", "custom_vjp_call"):
        inner = params["jaxpr" if name == "jit" else "call_jaxpr"]
        return count_jaxpr(inner.jaxpr)
    if name == "mul" and any(isinstance(x, Literal) and np.all(x.val == 1) for x in eqn.invars):
        return TraceCount()  # dropped before XLA sees it
    if name in ELEMENTWISE:
        return TraceCount(elementwise=size)
    if name in TRANSCENDENTAL:
        return TraceCount(transcendental=size)
    if name == "logistic":  # 1 / (1 + exp(-x))
        return TraceCount(elementwise=3 * size, transcendental=size)
    if name in REDUCTIONS:
        return TraceCount(elementwise=int(np.prod(eqn.invars[0].aval.shape)) - size)
    if name == "integer_pow":
        return TraceCount(elementwise=size * _num_multiplies(params["y"]))
    if name == "gather":
        # A fill checks each index against two bounds, joins both answers, and then selects.
        fills = params["mode"] == jax.lax.GatherScatterMode.FILL_OR_DROP
        return TraceCount(elementwise=size + 3 * int(np.prod(eqn.invars[1].aval.shape)) if fills else 0)
    if name in FREE:
        return TraceCount()
    raise ValueError(f"{name}: an operation without a rule; add one to unisc/models/trace.py")


def _num_multiplies(power: int) -> int:
    """Return how many products make x^power by squaring; XLA is given them one by one."""
    if power < 1:
        raise ValueError(f"integer_pow {power}: no rule for powers below 1; add one to unisc/models/trace.py")
    return power.bit_length() + power.bit_count() - 2
