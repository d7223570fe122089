"""Candidates a second of a shared context against a joint one: `python benchmarks/context_modes.py --json OUT`.

Trains nothing for long: it times the gradient step (loss and its gradient by parameters and embedding rows) of the reference
ranker on random batches of full lists, the same parameters on both sides. Steps of the sides alternate, so that a slow spell of
the machine falls on each alike; the ratio is that of the medians, beside the lowest and highest ratio of any one round.
"""

import argparse
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
from flax import nnx

from unisc.data.features import Batch, FeatureSpec, Field, NumericField, Table
from unisc.errors import InputError, run_command
from unisc.models import transformer
from unisc.objectives.ranking import bce

EMBED_DIM = 32
NUM_IDS, NUM_NUMERIC = 8, 16
"""Feature tokens of the reference ranker; with 64 history entries it has 88 tokens."""


def main() -> None:
    """Measure, then print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dims", type=int, nargs="+", default=[64, 128], help="widths of the reference ranker: 64, 128, 256")
    parser.add_argument("--requests", type=int, default=8, help="R, requests a batch")
    parser.add_argument("--list-len", type=int, default=20, help="C, candidates a request")
    parser.add_argument("--history-len", type=int, default=64, help="S")
    parser.add_argument("--own-ids", type=int, default=4, help=f"id fields of the candidate, of {NUM_IDS}")
    parser.add_argument("--own-numeric", type=int, default=8, help=f"numeric fields of the candidate, of {NUM_NUMERIC}")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    args = parser.parse_args()
    for name, most in (("own_ids", NUM_IDS), ("own_numeric", NUM_NUMERIC)):
        if not 0 <= getattr(args, name) <= most:
            raise InputError(f"{name}: {getattr(args, name)} is not between 0 and {most}; give one that is")
    spec = make_spec(args.own_ids, args.own_numeric, args.history_len)
    batch = make_batch(spec, args.requests, args.list_len)
    context, own = transformer.num_tokens(spec)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    device = jax.devices()[0]
    print(f"machine   {cores} cores, {device.device_kind}; Python {platform.python_version()}, jax {version('jax')}")
    print(f"batch     {args.requests} requests of {args.list_len} candidates; {context} tokens a request, {own} a candidate")
    print(f"{'dim':>4} {'joint ms':>9} {'shared ms':>10} {'joint cand/s':>13} {'shared cand/s':>14} ", end="")
    print(f"{'ratio':>6} {'lowest':>7} {'highest':>8} {'by FLOPs':>9}")
    measured = {}
    for dim in args.dims:
        row = measured[str(dim)] = measure(dim, spec, batch, rounds=args.rounds)
        print(f"{dim:4} {row['joint_ms']:9.1f} {row['shared_ms']:10.1f} {row['joint_per_s']:13,.0f}", end=" ")
        print(f"{row['shared_per_s']:14,.0f} {row['ratio']:7.2f} {row['lowest']:7.2f} {row['highest']:8.2f}", end=" ")
        print(f"{row['by_flops']:9.2f}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(measured, indent=1) + "\n")


def measure(dim: int, spec: FeatureSpec, batch: Batch, *, rounds: int) -> dict[str, float]:
    """Return medians of milliseconds a step, candidates a second, and the ratio of the two contexts."""
    rows = jnp.asarray(np.random.default_rng(1).normal(size=(batch.unique_rows.shape[0], EMBED_DIM)) * 0.1, jnp.float32)
    steps, counts = {}, {}
    for context in ("joint", "shared"):
        config = transformer.reference(dim, embed_dim=EMBED_DIM, context=context)
        steps[context] = make_step(config, spec, rows, batch)
        counts[context] = transformer.flops_per_example(config, spec).forward(
            num_candidates=batch.request_index.shape[0], num_requests=batch.lists.shape[0]
        )
    for step in (*steps.values(), *steps.values()):
        step()
    secs: dict[str, list[float]] = {context: [] for context in steps}
    for i in range(rounds):
        print(f"dim {dim}: round {i + 1} of {rounds}", end="\r", file=sys.stderr)
        for context, step in steps.items():
            began = time.perf_counter()
            step()
            secs[context].append(time.perf_counter() - began)
    joint, shared = (statistics.median(secs[context]) for context in ("joint", "shared"))
    ratios = [j / s for j, s in zip(secs["joint"], secs["shared"], strict=True)]
    candidates = batch.request_index.shape[0]
    return {
        "joint_ms": 1e3 * joint,
        "shared_ms": 1e3 * shared,
        "joint_per_s": candidates / joint,
        "shared_per_s": candidates / shared,
        "ratio": joint / shared,
        "lowest": min(ratios),
        "highest": max(ratios),
        "by_flops": counts["joint"] / counts["shared"],
    }


def make_step(config: transformer.TransformerConfig, spec: FeatureSpec, rows: jax.Array, batch: Batch) -> Callable[[], Any]:
    """Return one gradient step, which ends when its result is there."""
    graphdef, params = nnx.split(transformer.Transformer(config, spec, rngs=nnx.Rngs(0)))

    @jax.jit
    def slope(params: nnx.State, rows: jax.Array, batch: Batch) -> Any:
        def loss(params: nnx.State, rows: jax.Array) -> jax.Array:
            return bce(nnx.merge(graphdef, params)(rows, batch), batch.labels, batch.weights)

        return jax.value_and_grad(loss, argnums=(0, 1))(params, rows)

    return lambda: jax.block_until_ready(slope(params, rows, batch))


def make_spec(own_ids: int, own_numeric: int, history_len: int) -> FeatureSpec:
    """Return the reference ranker's features, the first ones those of the candidate; a history entry has one field."""
    fields = [
        Field(
            name=f"id_{i}", group="item" if i < own_ids else "user", level="candidate" if i < own_ids else "request", table="id"
        )
        for i in range(NUM_IDS)
    ]
    numeric = [
        NumericField(
            name=f"number_{i}",
            group="item" if i < own_numeric else "user",
            level="candidate" if i < own_numeric else "request",
        )
        for i in range(NUM_NUMERIC)
    ]
    return FeatureSpec(
        tables=(Table(name="id", num_rows=4096),),
        fields=(*fields, Field(name="behaviour", group="sequence", level="history", table="id")),
        numeric=tuple(numeric),
        domains=("search",),
        tasks=("click", "purchase"),
        history_len=history_len,
    )


def make_batch(spec: FeatureSpec, requests: int, list_len: int) -> Batch:
    """Return random requests of full lists, three quarters of the history real."""
    rng = np.random.default_rng(0)
    candidates, num_rows = requests * list_len, spec.num_rows

    def ids(*shape: int) -> jax.Array:
        return jnp.asarray(rng.integers(0, num_rows, shape), jnp.int32)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    return Batch(
        unique_rows=jnp.arange(num_rows, dtype=jnp.int32),
        request_ids=ids(requests, len(spec.at("request"))),
        candidate_ids=ids(candidates, len(spec.at("candidate"))),
        history_ids=ids(requests, spec.history_len, len(spec.at("history"))),
        history_mask=jnp.asarray(rng.random((requests, spec.history_len)) < 0.75),
        request_numeric=normal(requests, len(spec.numeric_at("request"))),
        candidate_numeric=normal(candidates, len(spec.numeric_at("candidate"))),
        request_index=jnp.asarray(np.repeat(np.arange(requests), list_len), jnp.int32),
        lists=jnp.arange(candidates, dtype=jnp.int32).reshape(requests, list_len),
        domain=jnp.zeros(candidates, jnp.int32),
        labels=jnp.asarray(rng.random((candidates, len(spec.tasks))) < 0.3, jnp.float32),
        weights=jnp.ones((candidates, len(spec.tasks)), jnp.float32),
    )


if __name__ == "__main__":
    run_command("context_modes", main)
