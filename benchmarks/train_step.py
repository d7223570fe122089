"""Training step of the reference ranker beside the same model in PyTorch: `python benchmarks/train_step.py --json OUT`.

88 tokens (8 ids, 16 numerics, 64 behaviours), 4 layers, 4 heads, gated units, one mask, two heads, Adam with decay. Sides are
processes of their own on the same cores, which take one step each in turns; all have the same allocator settings. Ours is the
step that training runs, with reading and updating of embedding rows; PyTorch is given its embeddings ready and updates none.
`vs_eager` and `vs_compile` are PyTorch's median time over ours, each side at the number of micro-batches that suits it better
of those that all are measured at.

Needs PyTorch (`pip install torch==2.13.0`), which nothing else here does.
"""

import argparse
import itertools
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from unisc import cpu

IDS, NUMERICS, HISTORY, EMBED, LAYERS, HEADS, ROWS = 8, 16, 64, 32, 4, 4, 20_000
BATCHES = {64: 512, 128: 512, 256: 128}
MICRO = {64: (16, 32), 128: (16, 32), 256: (4, 8)}
"""Micro-batches of a step, for every side."""


def jax_side(dim: int, batch_size: int, micro: int) -> Callable[[], None]:
    """The step of `unisc.train`, its parts shared out among as many virtual devices as there are cores."""
    import jax
    from flax import nnx

    from unisc.data.features import Batch, FeatureSpec, Field, NumericField, Table
    from unisc.models.transformer import Transformer, reference
    from unisc.train import state as train_state
    from unisc.train.ranking import train_mesh
    from unisc.train.step import compiled, make_train_step, parts_of

    spec = FeatureSpec(
        tables=(Table(name="all", num_rows=ROWS),),
        fields=(
            *(Field(name=f"id_{i}", group="item", level="candidate", table="all") for i in range(IDS)),
            Field(name="event", group="sequence", level="history", table="all"),
        ),
        numeric=tuple(NumericField(name=f"x_{i}", group="item", level="candidate") for i in range(NUMERICS)),
        domains=("search",),
        tasks=("click", "purchase"),
        history_len=HISTORY,
    )
    rng, b = np.random.default_rng(0), batch_size
    ids, mask = rng.integers(0, ROWS, (b, IDS + HISTORY)), np.arange(HISTORY) < rng.integers(8, HISTORY + 1, (b, 1))
    unique, local = np.unique(ids, return_inverse=True)
    local = local.reshape(ids.shape).astype(np.int32)
    arrays: dict[str, Any] = {
        "unique_rows": unique.astype(np.int32),
        "request_ids": np.zeros((b, 0), np.int32),
        "candidate_ids": local[:, :IDS],
        "history_ids": local[:, IDS:, None],
        "history_mask": mask,
        "request_numeric": np.zeros((b, 0), np.float32),
        "candidate_numeric": rng.normal(size=(b, NUMERICS)).astype(np.float32),
        "request_index": np.arange(b, dtype=np.int32),
        "lists": np.zeros((b, 0), np.int32),
        "domain": np.zeros(b, np.int32),
        "labels": (rng.random((b, 2)) < 0.2).astype(np.float32),
        "weights": np.ones((b, 2), np.float32),
    }
    model = Transformer(reference(dim, embed_dim=EMBED), spec, rngs=nnx.Rngs(0))
    state = train_state.create(
        model, num_rows=ROWS, embed_dim=EMBED, seed=0, table_init_std=0.05, table_optimizer="adagrad", clip_norm=1e9
    )
    mesh = train_mesh(micro)
    held = {"state": jax.device_put(state, train_state.layout(mesh))}
    parts = parts_of(Batch(**arrays), micro)
    hyper = np.array([1e-3, 1e-2, 1e-2, 1.0], np.float32)
    step = compiled(make_train_step(nnx.graphdef(model), 1e9, mesh), held["state"], parts, hyper)

    def run() -> None:
        held["state"], metrics = step(held["state"], parts, hyper)
        float(metrics.loss)

    return run


def torch_side(dim: int, batch_size: int, micro: int, *, compile_it: bool) -> Callable[[], None]:
    """The same shapes and arithmetic as PyTorch modules, with fused attention and fused AdamW."""
    import torch
    from torch import nn
    from torch.nn import functional as f

    torch.set_num_threads(cpu.num_cores())
    torch.manual_seed(0)
    hidden = {64: 192, 128: 384, 256: 704}[dim]

    def norm(x: Any) -> Any:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim, bias=False)
            self.up, self.down = nn.Linear(dim, 2 * hidden, bias=False), nn.Linear(hidden, dim, bias=False)

        def forward(self, x: Any, mask: Any) -> Any:
            b, t, _ = x.shape
            q, k, v = self.qkv(norm(x)).view(b, t, 3, HEADS, dim // HEADS).permute(2, 0, 3, 1, 4)
            attended = f.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            x = x + self.out(attended.transpose(1, 2).reshape(b, t, dim))
            gate, up = self.up(norm(x)).chunk(2, -1)
            return x + self.down(f.silu(gate) * up)

    class Ranker(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fields = nn.Parameter(torch.randn(IDS, EMBED, dim) / EMBED**0.5)
            self.slope, self.offset = nn.Parameter(torch.randn(NUMERICS, dim)), nn.Parameter(torch.zeros(NUMERICS, dim))
            self.event = nn.Linear(EMBED, dim)
            self.blocks = nn.ModuleList([Block() for _ in range(LAYERS)])
            self.head = nn.Linear(dim, 2)

        def forward(self, ids: Any, numeric: Any, history: Any, real: Any) -> Any:
            tokens = [torch.einsum("bme,med->bmd", ids, self.fields), numeric[..., None] * self.slope + self.offset]
            x = torch.cat([*tokens, self.event(history)], 1)
            for block in self.blocks:
                x = block(x, real[:, None, None, :])
            pooled = (norm(x) * real[..., None]).sum(1) / real.sum(1, keepdim=True)
            return self.head(pooled)

    rng, b = np.random.default_rng(0), batch_size
    mask = np.arange(HISTORY) < rng.integers(8, HISTORY + 1, (b, 1))
    real = torch.tensor(np.concatenate([np.ones((b, IDS + NUMERICS), bool), mask], 1))
    inputs = (torch.randn(b, IDS, EMBED), torch.randn(b, NUMERICS), torch.randn(b, HISTORY, EMBED), real)
    labels = (torch.rand(b, 2) < 0.2).float()
    ranker = Ranker()
    optimizer = torch.optim.AdamW(ranker.parameters(), lr=1e-3, weight_decay=1e-2, fused=True)
    forward = torch.compile(ranker) if compile_it else ranker

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        for part in zip(labels.chunk(micro), *(x.chunk(micro) for x in inputs), strict=True):
            loss = f.binary_cross_entropy_with_logits(forward(*part[1:]), part[0]) / micro
            loss.backward()
        optimizer.step()

    return run


SIDES = {
    "unisc": jax_side,
    "torch eager": lambda *shape: torch_side(*shape, compile_it=False),
    "torch.compile": lambda *shape: torch_side(*shape, compile_it=True),
}


def main() -> None:
    """Measure, print one table, and write the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the ratios")
    parser.add_argument("--cores", type=int, nargs="+", default=[4, 2])
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--side", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        _serve(args.side[0], *map(int, args.side[1:]))
        return
    packages = ", ".join(f"{name} {version(name)}" for name in ("jax", "torch"))
    print(f"machine   {os.cpu_count()} cores, {platform.machine()}; Python {platform.python_version()}; {packages}")
    columns = ("cores", "width", "batch", "parts", " side          ", "ms: median", "  lowest", " examples/s", " peak MiB")
    print(*columns)
    found: dict[str, Any] = {}
    available = sorted(os.sched_getaffinity(0))
    for cores in args.cores:
        if cores > len(available):
            print(f"{cores:5} cores are not here; skipped")
            continue
        for dim in args.widths:
            measured = _measure(available[:cores], dim, args.repeats)
            best = dict.fromkeys(SIDES, math.inf)
            for (side, micro), (times, peak) in measured.items():
                rate = BATCHES[dim] / statistics.median(times)
                middle, lowest = 1e3 * statistics.median(times), 1e3 * min(times)
                numbers = f"{middle:10.0f} {lowest:8.0f} {rate:11.0f} {peak:9.0f}"
                print(f"{cores:5} {dim:5} {BATCHES[dim]:5} {micro:5}  {side:14} {numbers}", flush=True)
                best[side] = min(best[side], middle)
            ratios = {
                key: round(best[side] / best["unisc"], 3)
                for key, side in (("vs_eager", "torch eager"), ("vs_compile", "torch.compile"))
            }
            found.setdefault(str(cores), {})[str(dim)] = ratios
            print(f"{'':24} PyTorch's time over ours: eager {ratios['vs_eager']:.2f}, compile {ratios['vs_compile']:.2f}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


def _measure(cores: list[int], dim: int, repeats: int) -> dict[tuple[str, int], tuple[list[float], float]]:
    """Start every side at every number of micro-batches on these cores and let them step in turns."""
    sides = {}
    for side, micro in itertools.product(SIDES, MICRO[dim]):
        environ = cpu.training_environment(len(cores)) if side == "unisc" else {**os.environ, **cpu.keep_memory()}
        sides[side, micro] = subprocess.Popen(
            [sys.executable, __file__, "--side", side, str(dim), str(BATCHES[dim]), str(micro)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**environ, "OMP_NUM_THREADS": str(len(cores)), "PYTHONPATH": str(Path(__file__).parents[1])},
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
    times: dict[tuple[str, int], list[float]] = {side: [] for side in sides}
    peaks = {}
    for repeat in range(repeats + 3):  # three to warm up
        for side, process in sides.items():
            process.stdin.write("step\n")
            process.stdin.flush()
            said = json.loads(process.stdout.readline())
            if repeat >= 3:
                times[side].append(said["seconds"])
            peaks[side] = said["peak_mib"]
    for process in sides.values():
        process.stdin.close()
        process.wait()
    return {side: (times[side], peaks[side]) for side in sides}


def _serve(side: str, dim: int, batch_size: int, micro: int) -> None:
    run = SIDES[side](dim, batch_size, micro)
    for _ in sys.stdin:
        began = time.perf_counter()
        run()
        seconds = time.perf_counter() - began
        status = Path("/proc/self/status").read_text().splitlines()
        peak = next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))
        print(json.dumps({"seconds": seconds, "peak_mib": peak}), flush=True)


if __name__ == "__main__":
    main()
