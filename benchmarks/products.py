"""Layers by `unisc.nn.linear.product` beside products over several axes: `taskset -c 0 python benchmarks/products.py`.

Two layers of a normalised copy, a map, and a gated unit of three times the width: the median time of the gradient over
interleaved repeats, and the median of the ratios.
"""

import argparse
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from unisc.errors import run_command
from unisc.nn.linear import product
from unisc.nn.norm import rms_norm


def several(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return the same product, its gradient one over all axes but the last."""
    return jnp.einsum("...d,df->...f", x, kernel)


def gradient(multiply: Callable[[jax.Array, jax.Array], jax.Array]) -> Callable[..., object]:
    """Return the compiled gradient of two layers by their kernels and their input."""

    def loss(kernels: list[tuple[jax.Array, ...]], x: jax.Array) -> jax.Array:
        for out, gate, up, down in kernels:
            x = x + multiply(rms_norm(x), out)
            y = rms_norm(x)
            x = x + multiply(jax.nn.silu(multiply(y, gate)) * multiply(y, up), down)
        return jnp.sum(x * x)

    return jax.jit(jax.grad(loss, argnums=(0, 1)))


def main() -> None:
    """Measure and print one line a width."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs=2, default=[16, 128])
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    for width in args.widths:
        shapes = [(width, width), (width, 3 * width), (width, 3 * width), (3 * width, width)]
        kernels = [tuple(jnp.asarray(rng.normal(0, 0.05, s).astype(np.float32)) for s in shapes) for _ in range(2)]
        x = jnp.asarray(rng.normal(size=(*args.rows, width)).astype(np.float32))
        ways, times = (gradient(several), gradient(product)), []
        for _ in range(args.repeats + 2):
            taken = []
            for way in ways:
                began = time.perf_counter()
                jax.block_until_ready(way(kernels, x))
                taken.append(time.perf_counter() - began)
            times.append(taken)
        kept = np.array(times[2:])
        before, after = 1e3 * np.median(kept, axis=0)
        ratio = np.median(kept[:, 1] / kept[:, 0])
        print(f"width {width:4}  several axes {before:7.1f} ms  product {after:7.1f} ms  ratio {ratio:.2f}, n = {args.repeats}")


if __name__ == "__main__":
    run_command("products", main)
