"""Strict numerics."""

import jax
import pytest


@pytest.fixture(autouse=True)
def strict_promotion():
    """Make a silent change of type an error (not for all tests: optax's own arithmetic needs promotion)."""
    with jax.numpy_dtype_promotion("strict"):
        yield
