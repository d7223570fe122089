"""Masked attention by our own products against `jax.nn.dot_product_attention`: `python benchmarks/attention.py`.

Times a forward and backward pass alone, in float32, at the shapes of the reference ranker and of a small one. Sides alternate;
the ratio is the median of paired rounds, beside the lowest and highest.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from unisc.errors import run_command
from unisc.nn.attention import BLOCKED, fused_attention, masked_attention

SHAPES = ((160, 88, 4, 16), (160, 88, 4, 32), (512, 21, 2, 7))
"""Rows, tokens, heads, width of a head."""


def main() -> None:
    """Measure, then print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    args = parser.parse_args()
    print(f"{'shape':>20} {'own ms':>9} {'theirs ms':>10} {'ratio':>6} {'lowest':>7} {'highest':>8}")
    for shape in SHAPES:
        rng = np.random.default_rng(0)
        qkv = [jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(3)]
        blocked = jnp.where(jnp.asarray(rng.random((shape[0], 1, shape[1])) < 0.75), 0.0, BLOCKED)

        def own(q: jax.Array, k: jax.Array, v: jax.Array, blocked: jax.Array = blocked) -> jax.Array:
            return jnp.sum(jnp.square(masked_attention(q, k, v, blocked)))

        def theirs(q: jax.Array, k: jax.Array, v: jax.Array, blocked: jax.Array = blocked) -> jax.Array:
            return jnp.sum(jnp.square(fused_attention(q, k, v, blocked, implementation="xla")))

        sides = [jax.jit(jax.value_and_grad(side, argnums=(0, 1, 2))) for side in (own, theirs)]
        secs: list[list[float]] = [[], []]
        for i in range(args.rounds + 1):
            for spent, side in zip(secs, sides, strict=True):
                began = time.perf_counter()
                jax.block_until_ready(side(*qkv))
                if i:  # the first compiles
                    spent.append(time.perf_counter() - began)
        ratios = [b / a for a, b in zip(*secs, strict=True)]
        ms = [1e3 * statistics.median(spent) for spent in secs]
        spread = f"{statistics.median(ratios):6.2f} {min(ratios):7.2f} {max(ratios):8.2f}"
        print(f"{' x '.join(map(str, shape)):>20} {ms[0]:9.1f} {ms[1]:10.1f} {spread}", flush=True)


if __name__ == "__main__":
    run_command("attention", main)
