"""Every expert on every row, or rows sorted to their experts: `python benchmarks/dispatch.py`.

Times a forward and backward pass of expert layers alone, at the widths that rankers have at some sizes and at one far beyond.
HHSFT's experts of three domains (shares 50, 35, 15 %): all on every row and the own one kept by a mask, as the model does it;
rows sorted by domain and two `jax.lax.ragged_dot`. RankMixer's eight experts a token of which two are open: all behind their
gates, as the model does it; each on the candidates with its largest gates, 1.25 x the mean load, which is not exact: ReLU gates
bound no expert's load, so that a static shape must drop some. Sides alternate; times are medians.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from unisc.errors import run_command
from unisc.models import rankmixer
from unisc.models.ladder import hhsft_ladder
from unisc.models.rankmixer import RankMixerConfig, TokenFFN
from unisc.nn.mlp import Experts, activate

SHARES = (0.5, 0.35, 0.15)
NUM_EXPERTS, NUM_ACTIVE = 8, 2
SLACK = 1.25


def main() -> None:
    """Measure, then print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=512, help="candidates a batch")
    parser.add_argument("--wide", type=int, default=512, help="a width beyond the ladders'")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    columns = ("dense ms", "sorted ms", "ratio", "dense MFLOP", "sorted")
    print(f"{'experts':12} {'size':5} {'width':>5} " + " ".join(f"{name:>11}" for name in columns))
    theirs, sizes = hhsft_ladder(embed_dim=16), rankmixer.RUNGS
    widths = {"hhsft": {s: theirs[s].gfa_dim for s in ("s", "m", "xl")}, "rankmixer": {s: sizes[s] for s in ("s", "m", "xl")}}
    for name, sides in (("hhsft", of_domains), ("rankmixer", of_gates)):
        for size, width in (*widths[name].items(), ("wide", args.wide)):
            dense, routed = (compiled(*side) for side in sides(args.rows, width))
            secs = measure((dense, routed), rounds=args.rounds)
            flops = [f.cost_analysis()["flops"] / 1e6 for f, _ in (dense, routed)]
            cells = (1e3 * secs[0], 1e3 * secs[1], secs[0] / secs[1], *flops)
            print(f"{name:12} {size:5} {width:5} " + " ".join(f"{cell:11.2f}" for cell in cells), flush=True)


def of_domains(num_rows: int, width: int) -> list[tuple[Callable[..., jax.Array], tuple[Any, ...]]]:
    """Return HHSFT's experts masked and sorted, each with its arguments."""
    rng = np.random.default_rng(0)
    domain = jnp.asarray(np.repeat(rng.choice(len(SHARES), num_rows // 16, p=SHARES), 16), jnp.int32)
    graphdef, params = nnx.split(Experts(len(SHARES), width, 2 * width, width, rngs=nnx.Rngs(0)))
    x = jnp.asarray(rng.normal(size=(len(domain), width)), jnp.float32)

    def masked(params: nnx.State, x: jax.Array, domain: jax.Array) -> jax.Array:
        return nnx.merge(graphdef, params).own(x, jax.nn.one_hot(domain, len(SHARES), axis=0)[..., None])

    def by_domain(params: nnx.State, x: jax.Array, domain: jax.Array) -> jax.Array:
        experts, order = nnx.merge(graphdef, params), jnp.argsort(domain)
        up, down = experts.up, experts.down
        assert up.bias is not None
        load = jnp.bincount(domain, length=len(SHARES)).astype(jnp.int32)
        hidden = jax.lax.ragged_dot(x[order], up.kernel[...], load) * up.multiplier
        hidden = activate(hidden + up.bias[...][domain[order], 0])
        return jnp.zeros_like(x).at[order].set(jax.lax.ragged_dot(hidden, down.kernel[...], load) * down.multiplier)

    np.testing.assert_allclose(masked(params, x, domain), by_domain(params, x, domain), rtol=1e-3, atol=1e-4)
    return [(masked, (params, x, domain)), (by_domain, (params, x, domain))]


def of_gates(num_rows: int, width: int) -> list[tuple[Callable[..., jax.Array], tuple[Any, ...]]]:
    """Return RankMixer's experts behind gates, and on the rows of their largest gates alone, each with its arguments."""
    rng = np.random.default_rng(0)
    config = RankMixerConfig(embed_dim=16, num_tokens=8, dim=width, ffn_dim=2 * width, num_experts=NUM_EXPERTS)
    graphdef, params = nnx.split(TokenFFN(config, rngs=nnx.Rngs(0)))
    s = jnp.asarray(rng.normal(size=(config.num_tokens, num_rows, width)), jnp.float32)
    load = int(SLACK * num_rows * NUM_ACTIVE / NUM_EXPERTS)

    def gated(params: nnx.State, s: jax.Array) -> jax.Array:
        return nnx.merge(graphdef, params)(s, None)[0]

    def by_expert(params: nnx.State, s: jax.Array) -> jax.Array:
        ffn = nnx.merge(graphdef, params)
        assert ffn.infer_router is not None and ffn.up.bias is not None and ffn.down.bias is not None
        gates, places = jax.lax.top_k(jax.nn.relu(ffn.infer_router(s)).swapaxes(1, 2), load)  # (T, G, load)
        tokens = np.arange(config.num_tokens)[:, None, None]
        up = ffn.up.kernel[...].reshape(config.num_tokens, width, NUM_EXPERTS, -1)
        bias = ffn.up.bias[...].reshape(config.num_tokens, NUM_EXPERTS, 1, -1)
        hidden = jax.nn.gelu(jnp.einsum("tgcd,tdgf->tgcf", s[tokens, places], up) * ffn.up.multiplier + bias)
        down = ffn.down.kernel[...].reshape(config.num_tokens, NUM_EXPERTS, -1, width)
        out = jnp.einsum("tgcf,tgfd->tgcd", hidden * gates[..., None], down) * ffn.down.multiplier
        return jnp.zeros_like(s).at[tokens, places].add(out) + ffn.down.bias[...]

    return [(gated, (params, s)), (by_expert, (params, s))]


def compiled(call: Callable[..., jax.Array], args: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """Compile the value and its slopes by parameters and rows."""
    slopes = jax.jit(jax.value_and_grad(lambda *a: jnp.sum(jnp.square(call(*a))), argnums=(0, 1)))
    return slopes.lower(*args).compile(), args


def measure(sides: tuple[tuple[Any, tuple[Any, ...]], ...], *, rounds: int) -> list[float]:
    """Return the median seconds of each side."""
    secs: list[list[float]] = [[] for _ in sides]
    for i in range(rounds + 1):
        for spent, (call, args) in zip(secs, sides, strict=True):
            began = time.perf_counter()
            jax.block_until_ready(call(*args))
            if i:  # the first warms up
                spent.append(time.perf_counter() - began)
    return [statistics.median(spent) for spent in secs]


if __name__ == "__main__":
    run_command("dispatch", main)
