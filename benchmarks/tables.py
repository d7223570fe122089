"""What row-sparse table updates cost: `python benchmarks/tables.py [--json OUT]`.

A small training step (one transformer layer of width 64 over 88 tokens, 128 requests, Adam on the dense part) is timed with the
embedding tables frozen and with each row-sparse optimiser, on 4 tables of 1M x 32 in one store; then with stores of 100k and of
10M rows. Every variant runs one step in turn, so that a slow spell of the machine falls on each alike; the batches differ from
step to step, so that no row stays in a cache by itself. Prints one table; keys of the JSON are as in the table.
"""

import argparse
import functools
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unisc.errors import run_command
from unisc.train.optimizers import dense_optimizer
from unisc.train.state import read_rows, update_rows

EMBED, WIDTH, HIDDEN, HEADS, REQUESTS = 32, 64, 192, 4, 128
NUM_TABLES, IDS, NUMERIC, HISTORY, TASKS = 4, 8, 16, 64, 2
SLOTS = REQUESTS * (IDS + HISTORY)
RATE = 1e-3
Step = Callable[..., Any]


def main() -> None:
    """Measure, then print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4_000_000, help="rows of the store in the first comparison")
    parser.add_argument("--few", type=int, default=100_000, help="rows of the smaller store in the second")
    parser.add_argument("--many", type=int, default=10_000_000, help="rows of the larger one")
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"machine  {cores} cores, {platform.machine()}; {jax.devices()[0].device_kind}; jax {version('jax')};", end=" ")
    print(f"load {os.getloadavg()[0]:.1f}; {args.rounds} rounds; {SLOTS} id slots a step")
    found: dict[str, float] = {}
    for optimizer in ("adagrad", "adam"):
        for other, base, over in (
            ((args.rows, optimizer), (args.rows, "frozen"), "over_frozen"),
            ((args.many, optimizer), (args.few, optimizer), "many_over_few"),
        ):
            times = _times([other, base], args.rounds)
            for key, measured in times.items():
                name = f"{key[0]}.{key[1]}"
                print(f"{name:28} median {_ms(measured):8.2f} ms   lowest {1e3 * min(measured):8.2f} ms")
            ratio = statistics.median(a / b for a, b in zip(times[other], times[base], strict=True))
            lowest = min(times[other]) / min(times[base])
            found |= {f"{optimizer}.{over}": ratio, f"{optimizer}.{over}_of_lowest": lowest}
            print(f"{optimizer + chr(46) + over:28} median of paired ratios {ratio:.3f}   ratio of lowest {lowest:.3f}")
        for num_rows in (args.few, args.rows, args.many):
            alone = _alone(num_rows, optimizer, args.rounds)
            name = f"{num_rows}.{optimizer}.alone"
            found[f"{name}_ms"] = _ms(alone)
            print(f"{name:28} median {_ms(alone):8.2f} ms   lowest {1e3 * min(alone):8.2f} ms   (read and update, no step)")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


def _ms(measured: list[float]) -> float:
    return 1e3 * statistics.median(measured)


def _times(variants: list[tuple[int, str]], rounds: int) -> dict[tuple[int, str], list[float]]:
    """Time one step of each variant in turn, in an order that alternates; return seconds by variant."""
    states = {v: _state(*v) for v in variants}
    batches = {v: [_batch(v[0], seed) for seed in range(8)] for v in variants}
    steps = {v: _make_step(v[1]) for v in variants}
    seconds: dict[tuple[int, str], list[float]] = {v: [] for v in variants}
    for turn in range(rounds + 3):
        for v in variants if turn % 2 else reversed(variants):
            began = time.perf_counter()
            states[v] = jax.block_until_ready(steps[v](states[v], batches[v][turn % 8]))
            if turn >= 3:
                seconds[v].append(time.perf_counter() - began)
        print(f"\r{turn + 1} of {rounds + 3}", end="", file=sys.stderr)
    print(file=sys.stderr)
    return seconds


def _alone(num_rows: int, optimizer: str, rounds: int) -> list[float]:
    """Time reading and updating the rows with nothing around it."""

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(
        table: jax.Array, moments: dict[str, jax.Array], unique_rows: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        rows = read_rows(table, unique_rows)
        return update_rows(table, moments, unique_rows, rows, 1e-3 * rows + 1e-3, jnp.float32(RATE))

    state, seconds = _state(num_rows, optimizer), []
    table, moments = state["table"], state["table_moments"]
    batches = [_batch(num_rows, seed)["unique_rows"] for seed in range(8)]
    for turn in range(rounds + 3):
        began = time.perf_counter()
        table, moments = jax.block_until_ready(update(table, moments, batches[turn % 8]))
        seconds.append(time.perf_counter() - began)
    return seconds[3:]


def _state(num_rows: int, optimizer: str) -> dict[str, Any]:
    rng = np.random.default_rng(0)

    def kernel(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)

    dense = {
        "id": kernel(EMBED, WIDTH),
        "numeric": rng.standard_normal((NUMERIC, WIDTH)).astype(np.float32),
        "qkv": kernel(WIDTH, 3 * WIDTH),
        "out": kernel(WIDTH, WIDTH),
        "up": kernel(WIDTH, 2 * HIDDEN),
        "down": kernel(HIDDEN, WIDTH),
        "head": kernel(WIDTH, TASKS),
    }
    dense = {name: jnp.asarray(value) for name, value in dense.items()}
    zeros = functools.partial(jnp.zeros, (num_rows, EMBED))
    moments = {
        "frozen": dict,
        "adagrad": lambda: {"sum": jnp.zeros(num_rows)},
        "adam": lambda: {"m": zeros(), "v": zeros(), "touches": jnp.zeros(num_rows)},
    }[optimizer]()
    table = 0.05 * jax.random.normal(jax.random.key(0), (num_rows, EMBED))
    return {"dense": dense, "moments": dense_optimizer("adam", clip_norm=1.0).init(dense), "table": table} | {
        "table_moments": moments
    }


def _batch(num_rows: int, seed: int) -> dict[str, jax.Array]:
    """Draw ids of which a few are frequent, two of every table a request, its history of the first table."""
    rng, size = np.random.default_rng(seed), num_rows // NUM_TABLES
    offsets = np.concatenate([np.repeat(np.arange(NUM_TABLES), IDS // NUM_TABLES), np.zeros(HISTORY, np.int64)]) * size
    ids = (size * rng.random((REQUESTS, IDS + HISTORY)) ** 3).astype(np.int64) + offsets
    unique, index = np.unique(ids, return_inverse=True)
    padded = np.concatenate([unique, np.full(SLOTS - len(unique), num_rows)])
    arrays = {
        "unique_rows": padded.astype(np.int32),
        "ids": index.reshape(ids.shape).astype(np.int32),
        "numeric": rng.standard_normal((REQUESTS, NUMERIC)).astype(np.float32),
        "mask": rng.random((REQUESTS, HISTORY)) < 0.7,
        "labels": (rng.random((REQUESTS, TASKS)) < 0.2).astype(np.float32),
    }
    return {name: jnp.asarray(value) for name, value in arrays.items()}


@functools.cache
def _make_step(table_optimizer: str) -> Step:
    optimizer = dense_optimizer("adam", clip_norm=1.0)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: dict[str, Any], batch: dict[str, jax.Array]) -> dict[str, Any]:
        rows = read_rows(state["table"], batch["unique_rows"])
        frozen = table_optimizer == "frozen"
        grads = jax.grad(_loss, argnums=0 if frozen else (0, 1))(state["dense"], rows, batch)
        dense_grads, row_grads = (grads, None) if frozen else grads
        updates, moments = optimizer.update(dense_grads, state["moments"])
        dense = jax.tree.map(lambda p, u: p - RATE * u, state["dense"], updates)
        table, table_moments = state["table"], state["table_moments"]
        if row_grads is not None:
            rate = jnp.float32(RATE)
            table, table_moments = update_rows(table, table_moments, batch["unique_rows"], rows, row_grads, rate)
        return {"dense": dense, "moments": moments, "table": table, "table_moments": table_moments}

    return step


def _loss(dense: dict[str, jax.Array], rows: jax.Array, batch: dict[str, jax.Array]) -> jax.Array:
    tokens = jnp.concatenate([rows[batch["ids"]] @ dense["id"], batch["numeric"][..., None] * dense["numeric"]], axis=1)
    # Ids of the request, then its history, of which some is padding, then numerics.
    seen = jnp.pad(batch["mask"], ((0, 0), (IDS, NUMERIC)), constant_values=True)
    q, k, v = jnp.split((_norm(tokens) @ dense["qkv"]).reshape(*tokens.shape[:2], 3 * HEADS, WIDTH // HEADS), 3, axis=2)
    x = tokens + jax.nn.dot_product_attention(q, k, v, mask=seen[:, None, None]).reshape(tokens.shape) @ dense["out"]
    gate, up = jnp.split(_norm(x) @ dense["up"], 2, axis=-1)
    x = x + (jax.nn.silu(gate) * up) @ dense["down"]
    logits = _norm(jnp.mean(x, axis=1)) @ dense["head"]
    return jnp.mean(jax.nn.softplus(logits) - batch["labels"] * logits)


def _norm(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)


if __name__ == "__main__":
    run_command("tables", main)
