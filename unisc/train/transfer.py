"""How settings found at one size carry over to another.

Width: the dense rate stays as it is. Kernels are used times BASE_FAN_IN / fan_in and Muon's step is scaled to match, so that a
step changes activations alike at every width (arXiv 2203.03466, table 8; `tests/train/test_transfer.py` measures it).

Batch: the rules below, for optimisers that divide by the size of the gradient, as all of `unisc.train.optimizers` do. They hold
while the noise of a gradient outweighs its mean: up to some critical batch, beyond which no rate makes up for fewer steps. The
rate of the table stays: a row that few examples name is touched as often whatever the batch, and its update is normalised.
"""

import math

from unisc.errors import InputError


def scale_rate(rate: float, *, batch: int, base_batch: int) -> float:
    """Return the dense rate at `batch` candidates that does what `rate` does at `base_batch`: by the root of their ratio.

    k times the examples divide the noise of the mean gradient by sqrt(k), and dividing by its size undoes that; k times fewer
    steps with the noise of one of them then spread as far if each is sqrt(k) times as long (arXiv 2205.10287, section 5).

    Raises:
      InputError: a batch below 1.
    """
    return rate * math.sqrt(_ratio(batch, base_batch))


def scale_memory(beta: float, *, batch: int, base_batch: int) -> float:
    """Return the decay of a moving mean that remembers as many examples as `beta` does at `base_batch`; at least 0.

    The companion of `scale_rate` in arXiv 2205.10287: 1 - beta grows as the batch. Small for b1, of use for b2 at large ratios.

    Raises:
      InputError: a batch below 1.
    """
    return max(0.0, 1.0 - (1.0 - beta) * _ratio(batch, base_batch))


def scale_weight_decay(decay: float, *, batch: int, base_batch: int) -> float:
    """Return the decoupled decay that forgets over as many examples: the rate's root times this root is the batch's ratio.

    A step shrinks kernels by rate x decay, so 1 / (rate x decay) steps are its memory (arXiv 2405.13698, section 3).

    Raises:
      InputError: a batch below 1.
    """
    return decay * math.sqrt(_ratio(batch, base_batch))


def _ratio(batch: int, base_batch: int) -> float:
    for name, value in (("batch", batch), ("base_batch", base_batch)):
        if value < 1:
            raise InputError(f"{name} {value}: give at least 1 candidate")
    return batch / base_batch
