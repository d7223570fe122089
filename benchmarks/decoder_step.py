"""Training step of the decoder beside the same model in PyTorch: `python benchmarks/decoder_step.py --json OUT`.

Forward, backward and AdamW on random tokens without padding, in float32. Sides are processes of their own on the same cores,
which take one step each in turns; all have the same allocator settings. PyTorch has two: "transformers", its Qwen3ForCausalLM
with sdpa attention, and "plain", the same arithmetic by hand in the fewest operations (one product for queries, keys and
values, one for gate and up, no mask), both at several numbers of micro-batches; ours is the step that training runs, which has
none. The ratio is PyTorch's time over ours in the same round, PyTorch at what suits it best: the median over rounds, with the
90 % bootstrap interval of that median. Beside it the ratio of processor times, which other load moves less.

On an accelerator, `--size 0.6b --compute bfloat16` runs our side alone and prints the share of the device's peak that the
model's products reach; each token is counted with the tokens it sees, on average half of the row.

Needs PyTorch and transformers (`pip install torch==2.13.0 transformers`), which only tests need else.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unisc import cpu
from unisc.errors import InputError, run_command


class Size(NamedTuple):
    """Sizes of a decoder by Qwen3's meaning, and the tokens of a step."""

    dim: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    tokens: int


SIZES = {
    "128": Size(128, 4, 4, 2, 32, 384, 2048, 8192),
    "256": Size(256, 6, 8, 4, 32, 768, 4096, 4096),
    "512": Size(512, 8, 8, 4, 64, 1536, 8192, 2048),
    "0.6b": Size(1024, 28, 16, 8, 128, 3072, 151_936, 16_384),
}
PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0}
"""Dense bfloat16 products a second of a card, by part of its name, from its data sheet."""
RATE, DECAY = 1e-3, 1e-2


class Shape(NamedTuple):
    """One measurement's arguments, for every side."""

    size: str
    length: int
    tokens: int
    micro: int
    chunk: int
    compute: str = "float32"
    remat: bool = False


class Texts(NamedTuple):
    """Rows of tokens, each to foresee the next, and how much each counts."""

    tokens: np.ndarray
    weights: np.ndarray


def jax_side(shape: Shape) -> Callable[[], float]:
    """The step of `unisc.train.encoder`, its batch spread over as many virtual devices as there are cores."""
    import jax
    from flax import nnx

    from unisc.models.decoder import Decoder
    from unisc.objectives.language import next_token_loss
    from unisc.train import state as train_state
    from unisc.train.encoder import encoder_mesh, make_encoder_step
    from unisc.train.step import compiled

    model = Decoder(_decoder_config(shape), rngs=nnx.Rngs(0))
    state = train_state.create(
        model, num_rows=1, embed_dim=1, seed=0, table_init_std=0.05, table_optimizer="adagrad", clip_norm=1e9
    )
    tokens = _tokens(shape._replace(micro=1))[0]
    batch = Texts(tokens, np.ones((len(tokens), shape.length), np.float32))
    mesh = encoder_mesh(len(tokens))
    held = jax.device_put(state, train_state.layout(mesh))

    def loss(model: Any, rows: Any, batch: Texts, shared: Any) -> tuple[Any, dict[str, Any]]:
        hidden = model(model.embed(batch.tokens[:, :-1]))
        found = next_token_loss(hidden, model.output_vectors(), batch.tokens[:, 1:], batch.weights, chunk=shape.chunk)
        return found.mean, {}

    options = "adam", shape.compute, shape.remat
    hyper = np.array([RATE, 0.0, DECAY], np.float32)
    step = make_encoder_step(nnx.graphdef(model), loss, 1e9, mesh, Texts, False, *options)
    step = compiled(step, held, batch, hyper, None)

    def run() -> float:
        nonlocal held
        held, metrics = step(held, batch, hyper, None)
        return float(metrics.loss)

    return run


def transformers_side(shape: Shape) -> Callable[[], float]:
    """Hugging Face's model with PyTorch's fused attention."""
    import transformers

    size = SIZES[shape.size]
    config = transformers.Qwen3Config(
        vocab_size=size.vocab, hidden_size=size.dim, num_hidden_layers=size.layers, num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads, head_dim=size.head_dim, intermediate_size=size.ffn, tie_word_embeddings=True,
        max_position_embeddings=shape.length, attn_implementation="sdpa", use_cache=False,
    )  # fmt: skip
    model = transformers.Qwen3ForCausalLM(config)
    return _torch_step(model, lambda tokens: model(input_ids=tokens).logits, shape)


def plain_side(shape: Shape) -> Callable[[], float]:
    """The same model by hand: joined maps, no mask, nothing that training does not need."""
    import torch
    from torch import nn
    from torch.nn import functional as f

    size = SIZES[shape.size]
    n, k, h = size.heads, size.kv_heads, size.head_dim
    speeds = 1e6 ** (-torch.arange(h // 2) / (h // 2))
    angles = (torch.arange(shape.length)[:, None] * speeds).repeat(1, 2)
    cos, sin = angles.cos(), torch.cat([-angles[:, : h // 2].sin(), angles[:, h // 2 :].sin()], 1)

    def turn(x: Any) -> Any:
        return x * cos + x.roll(h // 2, -1) * sin

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms = nn.ParameterList([nn.Parameter(torch.ones(w)) for w in (size.dim, size.dim, h, h)])
            self.qkv, self.out = nn.Linear(size.dim, (n + 2 * k) * h, bias=False), nn.Linear(n * h, size.dim, bias=False)
            self.up, self.down = nn.Linear(size.dim, 2 * size.ffn, bias=False), nn.Linear(size.ffn, size.dim, bias=False)

        def forward(self, x: Any) -> Any:
            b, t, _ = x.shape
            q, key, v = self.qkv(self.norm(x, 0)).view(b, t, n + 2 * k, h).transpose(1, 2).split([n, k, k], 1)
            key, v = (y.repeat_interleave(n // k, 1) for y in (turn(self.norm(key, 3)), v))
            read = f.scaled_dot_product_attention(turn(self.norm(q, 2)), key, v, is_causal=True)
            x = x + self.out(read.transpose(1, 2).reshape(b, t, -1))
            gate, up = self.up(self.norm(x, 1)).chunk(2, -1)
            return x + self.down(f.silu(gate) * up)

        def norm(self, x: Any, which: int) -> Any:
            return f.rms_norm(x, x.shape[-1:], self.norms[which], 1e-6)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Parameter(torch.randn(size.vocab, size.dim) * 0.02)
            self.blocks, self.gain = nn.Sequential(*(Block() for _ in range(size.layers))), nn.Parameter(torch.ones(size.dim))

        def forward(self, tokens: Any) -> Any:
            x = self.blocks(f.embedding(tokens, self.embedding))
            return f.rms_norm(x, x.shape[-1:], self.gain, 1e-6) @ self.embedding.T

    model = Model()
    return _torch_step(model, model, shape)


def _torch_step(model: Any, logits_of: Callable[[Any], Any], shape: Shape) -> Callable[[], float]:
    import torch
    from torch.nn import functional as f

    torch.set_num_threads(cpu.num_cores())
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY, fused=True)
    parts = torch.tensor(_tokens(shape)).long()

    def run() -> float:
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for part in parts:
            loss = f.cross_entropy(logits_of(part[:, :-1]).flatten(0, 1), part[:, 1:].flatten()) / shape.micro
            loss.backward()
            total += float(loss.detach())
        optimizer.step()
        return total

    return run


SIDES = {"unisc": jax_side, "transformers": transformers_side, "plain": plain_side}


def _tokens(shape: Shape) -> np.ndarray:
    rows = shape.tokens // shape.length // shape.micro
    drawn = np.random.default_rng(0).integers(0, SIZES[shape.size].vocab, (shape.micro, rows, shape.length + 1))
    return drawn.astype(np.int32)


def _decoder_config(shape: Shape) -> Any:
    from unisc.models.decoder import DecoderConfig

    size = SIZES[shape.size]
    return DecoderConfig(
        vocab_size=size.vocab, dim=size.dim, num_layers=size.layers, num_heads=size.heads, num_kv_heads=size.kv_heads,
        head_dim=size.head_dim, ffn_hidden=size.ffn, max_len=shape.length,
    )  # fmt: skip


def main() -> None:
    """Measure, print one table, and write the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the ratios")
    parser.add_argument("--cores", type=int, default=cpu.num_cores())
    parser.add_argument("--size", nargs="+", default=["128", "256", "512"], choices=SIZES)
    parser.add_argument("--length", type=int, nargs="+", help="tokens of a row (128 and 512; of 0.6b 2048)")
    parser.add_argument("--tokens", type=int, help="tokens of a step (default: by size)")
    parser.add_argument("--micro", type=int, nargs="+", help="PyTorch's micro-batches (1 and as many as cores)")
    parser.add_argument("--chunk", type=int, default=128, help="positions whose logits our side holds at a time")
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--compute", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--remat", action="store_true", help="our side computes its layers again in the backward pass")
    parser.add_argument("--peak-tflops", type=float, help="of the accelerator, where its name is not known here")
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        _serve(args.side[0], Shape(*json.loads(args.side[1])))
        return
    if args.compute == "bfloat16" or "0.6b" in args.size:
        for size in args.size:
            tokens, length = args.tokens or SIZES[size].tokens, (args.length or [2048])[0]
            _alone(Shape(size, length, tokens, 1, args.chunk, args.compute, args.remat), args.repeats, args.peak_tflops)
        return
    packages = ", ".join(f"{name} {version(name)}" for name in ("jax", "torch", "transformers"))
    print(f"machine   {args.cores} of {os.cpu_count()} cores, {platform.machine()}, load {os.getloadavg()[0]:.1f}; {packages}")
    print(
        f"{'size':>5} {'length':>6} {'parts':>5}  {'side':13} {'ms: median':>10} {'lowest':>7} {'processor':>9} {'tokens/s':>9}"
    )
    found: dict[str, dict[str, Any]] = {}
    for size in args.size:
        for length in args.length or (128, 512):
            tokens = args.tokens or SIZES[size].tokens
            micros = args.micro or (1, args.cores)
            shape = Shape(size, length, tokens, 1, args.chunk, args.compute, args.remat)
            found.setdefault(size, {})[str(length)] = _compare(shape, micros, args.cores, args.repeats)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


def _compare(shape: Shape, micros: Any, cores: int, repeats: int) -> dict[str, Any]:
    rows = shape.tokens // shape.length
    if rows % cores:
        raise InputError(
            f"tokens {shape.tokens}: {rows} rows of {shape.length} are not shared out among {cores} cores; give more"
        )
    asked = [("unisc", 1), *((side, m) for side in ("transformers", "plain") for m in micros if rows % m == 0)]
    times = _measure(shape, asked, cores, repeats)
    for (side, micro), taken in times.items():
        wall, processor = np.median(taken, axis=0)
        numbers = f"{1e3 * wall:10.0f} {1e3 * min(t for t, _ in taken):7.0f} {1e3 * processor:9.0f} {shape.tokens / wall:9.0f}"
        print(f"{shape.size:>5} {shape.length:6} {micro:5}  {side:13} {numbers}", flush=True)
    best = {s: min((k for k in times if k[0] == s), key=lambda k: statistics.median(t for t, _ in times[k])) for s in SIDES}
    theirs = min((best[s] for s in SIDES if s != "unisc"), key=lambda k: statistics.median(t for t, _ in times[k]))
    ratios = np.array(times[theirs]) / np.array(times[best["unisc"]])
    draws = np.random.default_rng(0).integers(0, repeats, (2000, repeats))
    low, high = np.quantile(np.median(ratios[draws, 0], axis=1), (0.05, 0.95))
    ratio, processor = np.median(ratios, axis=0)
    print(f"{'':20}{theirs[0]} over ours {ratio:.2f} [{low:.2f}, {high:.2f}], n = {repeats}; of processor time {processor:.2f}")
    return {"ratio": round(ratio, 3), "low": round(low, 3), "high": round(high, 3), "processor": round(processor, 3)}


def _measure(
    shape: Shape, asked: list[tuple[str, int]], cores: int, repeats: int
) -> dict[tuple[str, int], list[tuple[float, float]]]:
    """Start all sides on these cores and let them step in turns; return wall and processor seconds of each round."""
    chosen = sorted(os.sched_getaffinity(0))[:cores]
    sides = {}
    for side, micro in asked:
        environ = cpu.training_environment(cores) if side == "unisc" else {**os.environ, **cpu.keep_memory()}
        sides[side, micro] = subprocess.Popen(
            [sys.executable, __file__, "--side", side, json.dumps(shape._replace(micro=micro))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**environ, "OMP_NUM_THREADS": str(cores), "PYTHONPATH": str(Path(__file__).parents[1])},
            preexec_fn=lambda: os.sched_setaffinity(0, chosen),
        )
    times: dict[tuple[str, int], list[tuple[float, float]]] = {side: [] for side in sides}
    for repeat in range(repeats + 2):  # two to warm up
        for side, process in sides.items():
            process.stdin.write("step\n")
            process.stdin.flush()
            said = json.loads(process.stdout.readline())
            if repeat >= 2:
                times[side].append((said["wall"], said["processor"]))
    for process in sides.values():
        process.stdin.close()
        process.wait()
    return times


def _serve(side: str, shape: Shape) -> None:
    run = SIDES[side](shape)
    for _ in sys.stdin:
        began = time.perf_counter(), time.process_time()
        run()
        print(json.dumps({"wall": time.perf_counter() - began[0], "processor": time.process_time() - began[1]}), flush=True)


def _alone(shape: Shape, repeats: int, peak: float | None) -> None:
    import jax

    from unisc.models.decoder import flops_per_token

    device = jax.devices()[0]
    peak = peak or next((tflops for name, tflops in PEAK_TFLOPS.items() if name in device.device_kind), None)
    began = time.perf_counter()
    run = SIDES["unisc"](shape)
    first = run()
    compiled = time.perf_counter() - began
    taken = []
    for _ in range(repeats + 2):
        began = time.perf_counter()
        loss = run()
        taken.append(time.perf_counter() - began)
    wall = statistics.median(taken[2:])
    flops = 3 * shape.tokens * flops_per_token(_decoder_config(shape), context=(shape.length + 1) // 2)
    tflops = flops / wall / 1e12 / jax.device_count()
    share = f", {100 * tflops / peak:.1f} % of {peak:.0f}" if peak else ""
    print(f"{jax.device_count()} x {device.device_kind}; {shape}; compiled in {compiled:.0f} s; loss {first:.3f} to {loss:.3f}")
    print(f"{1e3 * wall:.1f} ms [{1e3 * min(taken[2:]):.1f}, {1e3 * max(taken[2:]):.1f}], median of {repeats} steps")
    print(f"{shape.tokens / wall:.0f} tokens/s, {tflops:.2f} TFLOP/s a device{share}")


if __name__ == "__main__":
    run_command("decoder_step", main)
