"""Memory and time of a step whose layers are computed again or whose batch comes in parts: `python benchmarks/remat.py`.

Times the step that training runs (loss, gradients, updates) of rankers of size xl with four layers on random batches of full
lists. Memory is what XLA sets aside for the step beyond its arguments and results. Steps of the settings alternate, so that a
slow spell of the machine falls on each alike; times are medians.
"""

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from benchmarks.context_modes import EMBED_DIM, make_batch, make_spec
from unisc.data.features import Batch, FeatureSpec
from unisc.errors import run_command
from unisc.models import transformer, zoo
from unisc.models.ladder import hhsft_ladder
from unisc.train import state as train_state
from unisc.train.ranking import train_mesh
from unisc.train.step import Hyper, make_train_step, parts_of

SETTINGS = {"as it is": (1, False), "remat": (1, True), "4 parts": (4, False), "4 parts, remat": (4, True)}


def main() -> None:
    """Measure, then print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=("transformer", "hhsft"), default=["transformer", "hhsft"])
    parser.add_argument("--contexts", nargs="+", choices=("joint", "shared"), default=["joint", "shared"])
    parser.add_argument("--requests", type=int, default=16, help="of 20 candidates and 64 history entries each")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    args = parser.parse_args()
    spec = make_spec(4, 8, 64)
    batch = jax.tree.map(np.asarray, make_batch(spec, args.requests, 20))
    measured = {}
    print(f"{'ranker':12} {'context':8} {'step':16} {'MiB':>8} {'of it':>6} {'ms':>8} {'of it':>6}")
    for model in args.models:
        for context in args.contexts:
            found = measure(model, context, spec, batch, rounds=args.rounds)
            for setting, (mib, ms) in found.items():
                measured[f"{model}.{context}.{setting}"] = {"mib": mib, "ms": ms}
                first = found["as it is"]
                print(f"{model:12} {context:8} {setting:16} {mib:8.1f} {mib / first[0]:6.2f} {ms:8.1f} {ms / first[1]:6.2f}")
    if args.json:
        args.json.write_text(json.dumps(measured, indent=1) + "\n")


def measure(model: str, context: str, spec: FeatureSpec, batch: Batch, *, rounds: int) -> dict[str, tuple[float, float]]:
    """Return MiB and milliseconds of a step by setting."""
    if model == "hhsft":
        config = dataclasses.replace(hhsft_ladder(embed_dim=EMBED_DIM)["xl"], num_hfa_layers=4, context=context)
    else:
        config = dataclasses.replace(transformer.ladder(embed_dim=EMBED_DIM)["xl"], num_layers=4, context=context)
    ranker = zoo.build(config, spec, rngs=nnx.Rngs(0))
    steps, mib = {}, {}
    for name, (num_parts, remat) in SETTINGS.items():
        steps[name], mib[name] = make_step(ranker, spec, parts_of(batch, num_parts), remat=remat)
    secs: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(rounds + 1):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if i:  # the first warms up
                secs[name].append(time.perf_counter() - began)
    return {name: (mib[name], 1e3 * statistics.median(secs[name])) for name in steps}


def make_step(ranker: nnx.Module, spec: FeatureSpec, parts: Batch, *, remat: bool) -> tuple[Callable[[], None], float]:
    """Return a training step, which ends when its result is there, and its memory in MiB."""
    state = train_state.create(
        ranker,
        num_rows=spec.num_rows,
        embed_dim=EMBED_DIM,
        seed=0,
        table_init_std=0.05,
        table_optimizer="adagrad",
        clip_norm=1.0,
    )
    hyper = np.asarray(Hyper(1e-3, 1e-2, 0.0, 0.5), np.float32)
    jitted = make_train_step(nnx.graphdef(ranker), 1.0, train_mesh(1), remat=remat)
    compiled = jitted.lower(state, parts, hyper).compile()

    def step() -> None:
        nonlocal state
        state, metrics = compiled(state, parts, hyper)
        jax.block_until_ready(metrics)

    return step, compiled.memory_analysis().temp_size_in_bytes / 2**20


if __name__ == "__main__":
    run_command("remat", main)
