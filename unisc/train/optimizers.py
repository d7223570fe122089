"""Optimisers of the dense parameters, none with a learning rate: the step scales their update by one given as an argument.

Decay, too, is the step's: p <- p - rate (update + decay p). All are made for kernels that are stored large and used times
BASE_FAN_IN / fan_in (`unisc.nn.linear`), so that one rate serves a ladder of widths: every update here is free of the
gradient's scale, and Muon's is scaled to the same rule.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from unisc.errors import InputError
from unisc.nn.linear import BASE_FAN_IN

DenseOptimizer = Literal["adam", "muon", "adagrad", "rmsprop", "rmsprop_v2"]
DENSE_OPTIMIZERS: tuple[DenseOptimizer, ...] = get_args(DenseOptimizer)

ADAM_B1, ADAM_B2, ADAM_EPS = 0.9, 0.99, 1e-8
"""b2 below the usual .999: a short run's second moments must settle within some hundred steps."""
RMSPROP_DECAY = 0.99
RMSPROP_V2_DECAY = 0.99999
ADAGRAD_EPS = 1e-10
MUON_MOMENTUM = 0.95
MUON_COEFFICIENTS = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)
"""Five steps that bring singular values between .005 and 1 of the Frobenius norm to between .97 and 1.12; five of the usual
(3.4445, -4.7750, 2.0315) leave them between .68 and 1.16 at the same cost. They are optax's preset "dion"."""
LEAST_MUON_DIM = 4
"""A kernel with fewer inputs or outputs is a gate or a head by its shape, and gets Adam."""

Path = tuple[Any, ...]


def dense_optimizer(
    name: DenseOptimizer,
    *,
    clip_norm: float,
    rmsprop_decay: float = RMSPROP_DECAY,
    rmsprop_v2_decay: float = RMSPROP_V2_DECAY,
    is_hidden: Callable[[Path, Any], bool] | None = None,
) -> optax.GradientTransformation:
    """Return clipping by the global norm, then the named update without a rate.

    - adam: bias-corrected Adam (arXiv 1412.6980); with the step's decay, AdamW (arXiv 1711.05101).
    - muon: Muon with Nesterov momentum for hidden kernels (`is_hidden`, by default `is_hidden_kernel`), Adam for all else
      (Jordan 2024, https://kellerjordan.github.io/posts/muon; arXiv 2502.16982). A stacked kernel (T, d_in, d_out) is
      orthogonalised type by type.
    - adagrad: g / sqrt(sum g^2), the sum from 0 (Duchi, Hazan and Singer 2011). An initial sum, as libraries have it, would
      compare gradients with a constant, and gradients shrink with width here.
    - rmsprop: g / (sqrt(v) + eps), v the bias-corrected mean of g^2. Uncorrected, a run's first steps would be up to
      1/sqrt(1 - decay) = 10 times too large.
    - rmsprop_v2: v <- decay v + g^2, the sum that ByteDance's rankers divide by ("RMSPropV2 momentum 0.99999", OneTrans, arXiv
      2510.26104): Adagrad that forgets over 1/(1 - decay) steps, so that its rate settles instead of falling for ever.

    Raises:
      InputError: unknown name.
    """
    if name == "adam":
        update = _adam()
    elif name == "muon":
        hidden = is_hidden or is_hidden_kernel
        update = optax.partition({"muon": _muon(), "adam": _adam()}, lambda tree: _labels(tree, hidden))
    elif name == "adagrad":
        update = optax.scale_by_rss(initial_accumulator_value=0.0, eps=ADAGRAD_EPS**2)
    elif name == "rmsprop":
        update = optax.scale_by_rms(decay=rmsprop_decay, eps=ADAM_EPS, eps_in_sqrt=False, bias_correction=True)
    elif name == "rmsprop_v2":
        update = _scale_by_fading_sum(rmsprop_v2_decay)
    else:
        raise InputError(f"optimizer {name!r}: unknown; give one of {', '.join(DENSE_OPTIMIZERS)}")
    return optax.chain(optax.clip_by_global_norm(clip_norm), update)


def is_hidden_kernel(path: Path, leaf: Any) -> bool:
    """Return whether a parameter is a matrix, or a stack of them, inside the network.

    Heads map to logits and stay with Adam, as usual with Muon: here what lies under a name that begins with "head". Biases of
    stacked maps have an axis of length 1, and gates few outputs; both are told by their shape.
    """
    top = str(getattr(path[0], "key", path[0])) if path else ""
    return leaf.ndim >= 2 and min(leaf.shape[-2:]) >= LEAST_MUON_DIM and not top.startswith("head")


def is_decayed(leaf: Any) -> bool:
    """Return whether weight decay applies: to kernels, not to biases and gains, stacked ones (T, 1, d) among them."""
    return leaf.ndim >= 2 and leaf.shape[-2] > 1


def _adam() -> optax.GradientTransformation:
    return optax.scale_by_adam(b1=ADAM_B1, b2=ADAM_B2, eps=ADAM_EPS)


def _labels(tree: Any, is_hidden: Callable[[Path, Any], bool]) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, x: "muon" if is_hidden(path, x) else "adam", tree)


def _muon() -> optax.GradientTransformation:
    """Return the momentum made orthogonal, times sqrt(d_in d_out) / BASE_FAN_IN.

    Used times BASE_FAN_IN / d_in, such a step of rate r changes the map by r sqrt(d_out / d_in) in spectral norm, hence outputs
    by about r whatever the widths (arXiv 2310.17813, condition 1). At d_in = d_out = BASE_FAN_IN its entries have
    root-mean-square .18, close to the .2 of Adam's (arXiv 2502.16982, section 2.2), so that both share one rate.
    """
    matrices = contrib.MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)

    def scale(update: jax.Array) -> jax.Array:
        return update * (math.sqrt(update.shape[-2] * update.shape[-1]) / BASE_FAN_IN)

    orthogonal = contrib.scale_by_muon(
        ns_coeffs=MUON_COEFFICIENTS,
        ns_steps=len(MUON_COEFFICIENTS),
        beta=MUON_MOMENTUM,
        # Under a mask: what is Adam's is an empty node there, and stays one.
        weight_dimension_numbers=lambda tree: jax.tree.map(lambda _: matrices, tree),
    )
    return optax.chain(orthogonal, optax.stateless(lambda updates, _: jax.tree.map(scale, updates)))


class FadingSumState(NamedTuple):
    """The fading sum of squared gradients, shaped as the parameters."""

    total: optax.Updates


def _scale_by_fading_sum(decay: float) -> optax.GradientTransformation:
    def init(params: optax.Params) -> FadingSumState:
        return FadingSumState(jax.tree.map(jnp.zeros_like, params))

    def update(updates: optax.Updates, state: Any, params: optax.Params | None = None) -> tuple[optax.Updates, FadingSumState]:
        total = jax.tree.map(lambda v, g: decay * v + jnp.square(g), state.total, updates)
        scaled = jax.tree.map(lambda g, v: g / (jnp.sqrt(v) + ADAGRAD_EPS), updates, total)
        return scaled, FadingSumState(total)

    return optax.GradientTransformation(init, update)
