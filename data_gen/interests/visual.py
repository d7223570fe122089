"""Stand-ins for what a frozen vision encoder says of a product's photo, for a generated shop, which has no photos.

A photo shows what a thing is, some of how it is, and itself: the vector of an item is that of its leaf category, plus those of
its attributes, plus noise of its own, brought to unit mean square. It does not show the brand, nor who likes it. Such vectors
are easier than real ones: leaf and attributes can be read off them by a linear map, up to the noise.
"""

import numpy as np
from jaxtyping import Float32, Int64

from unisc.data.ragged import Ragged

ATTRIBUTE_SCALE, NOISE_SCALE = 0.5, 0.5
"""Beside a leaf's vector of unit size; an item has two to four attributes, so that they weigh about as much as the leaf."""
_LEAF, _ATTRIBUTE, _ITEM = range(3)


def vectors(leaf: Int64[np.ndarray, " I"], attributes: Ragged, *, dim: int, seed: int) -> Float32[np.ndarray, "I Dv"]:
    """Return the vectors of items; those of a leaf or an attribute do not depend on how many there are.

    A leaf of -1 is unknown and adds nothing.
    """

    def table(subject: int, rows: int) -> np.ndarray:
        return np.random.default_rng([seed, 0x1A6E, subject]).standard_normal((rows, dim), dtype=np.float32)

    num_attributes = int(attributes.values.max(initial=-1)) + 1
    found = np.append(table(_LEAF, int(leaf.max(initial=-1)) + 1), np.zeros((1, dim), np.float32), axis=0)[leaf]
    of_item = np.repeat(np.arange(len(leaf)), attributes.lengths)
    np.add.at(found, of_item, np.float32(ATTRIBUTE_SCALE) * table(_ATTRIBUTE, num_attributes)[attributes.values])
    found += np.float32(NOISE_SCALE) * table(_ITEM, len(leaf))
    return found / np.sqrt(np.mean(found**2, axis=1, keepdims=True))
